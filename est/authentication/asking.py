"""What a request for enrolment brings with it, before anything of it is believed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from certs.csr import NamedRequest
from est.profiles import EnrolmentProfile, Operation

CLIENT_CERT = "Client-Cert"
CLIENT_CERT_CHAIN = "Client-Cert-Chain"
FORWARDED_CLIENT_CERT = "X-Forwarded-Client-Cert"
FORWARDING_HEADERS = (CLIENT_CERT, CLIENT_CERT_CHAIN, FORWARDED_CLIENT_CERT)

PROXY_PIN = r"^(client-cert|xfcc):[0-9a-f]{64}$"
"""A proxy that is trusted: the spelling that it owns, and the SHA-256 of its SubjectPublicKeyInfo in hexadecimal."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What came beside the certificates of the TLS connection.

    Attributes:
        authorization: The Authorization header.
        address: The peer's address.
        forwarded: The values of those `FORWARDING_HEADERS` that are there, in the order in which they came.
    """

    authorization: str = ""
    address: str = "unknown"
    forwarded: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False)


NO_EVIDENCE = Evidence()


@dataclass(frozen=True, slots=True)
class Asking:
    """Somebody asks a label.

    Attributes:
        chain: His certificates in DER, leaf first, of the connection or passed on by a proxy that is trusted.
        is_passed_on: Whether it is a proxy that speaks for him: his own TLS connection ends there.
    """

    profile: EnrolmentProfile
    now: datetime
    chain: Sequence[bytes]
    evidence: Evidence
    is_passed_on: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What he asks for.

    Attributes:
        requester: What his credentials call him, or `anyone` where he showed none.
    """

    device: str
    request: NamedRequest
    requester: str
    operation: Operation
