"""What operators ask for when they make an authority."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from certs.keys import KeyAlgorithm


@dataclass(frozen=True, slots=True)
class KeyWish:
    """Which key an authority is to have: a new one of this kind, or one that is here already and is nobody's yet.

    Attributes:
        engine: Where a new one is to lie; None: where the one before lies, or in the store.
    """

    algorithm: KeyAlgorithm = KeyAlgorithm.P384
    bits: int = 0
    existing: UUID | None = None
    engine: str | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """An authority to be made.

    Attributes:
        line: What it is to be called; None gives it a name.
        parent: The authority above it; None for a root.
        own_profile: By which its own certificate is made; None: `root` or `issuing`.
        profile: What it issues by where nobody says; None: by its kind.
        period: How long it is to last, or until when; None: as its own profile says.
        issuance: How long what it issues lasts, or until when, at the most; None: as its profile says.
    """

    subject: Mapping[str, str]
    line: str | None = None
    parent: str | None = None
    key: KeyWish = KeyWish()
    own_profile: str | None = None
    profile: str | None = None
    path_length: int | None = None
    period: timedelta | datetime | None = None
    issuance: timedelta | datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
