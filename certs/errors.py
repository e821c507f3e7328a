"""The two ways in which this package says no.

1. What a peer sent (a request, a certificate, a chain, a name) is refused with `CertificateRefused`: its `kind`
   is for programs, its `reason` for people. A reason never quotes unchecked text raw: it is escaped and cut short.
2. What an operator wrote (a profile) is refused with `ProfileRefused`, which names the key at fault.

Nothing else leaves this package on bad input: each module catches what its libraries raise.
"""

from enum import Enum

from cryptography.x509 import DuplicateExtension, InvalidVersion, UnsupportedGeneralNameType

UNREADABLE = (ValueError, TypeError, InvalidVersion, DuplicateExtension, UnsupportedGeneralNameType)
"""What `cryptography` and `asn1crypto` raise at bytes that are not what they should be."""

_QUOTED_CHARACTERS = 80


class RefusalKind(Enum):
    """Why a certificate, a request or a name is refused; the set is closed."""

    MALFORMED = "malformed"
    POLICY = "policy"
    CHAIN_UNTRUSTED = "chain_untrusted"
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"
    EKU = "extended_key_usage"
    SIGNATURE = "signature"


class CertificateRefused(Exception):
    """A certificate, a request or a name is refused, for `reason`."""

    def __init__(self, kind: RefusalKind, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class ProfileRefused(Exception):
    """A profile's text is not one that can be issued by, for `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def quoted(text: str) -> str:
    """Return unchecked text as it may stand in a reason: escaped to one line of ASCII, and cut short."""
    shown = text if len(text) <= _QUOTED_CHARACTERS else f"{text[:_QUOTED_CHARACTERS]}..."
    return ascii(shown)
