"""What EST decides: go on, give the same again, or no, and why.

For each reason there is one sentence, made for the person who reads the device's log. Nothing that a stranger could use
to guess by is in a sentence; the node's log has the detail.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from iam.errors import Kind, Refused


class Refusal(Enum):
    """Why not: for each reason who can mend it, and the sentence that the device is told."""

    NO_CERTIFICATE = (Kind.UNAUTHENTICATED, "Present a client certificate.")
    NOT_YET_VALID = (Kind.FORBIDDEN, "The client certificate is not valid yet.")
    EXPIRED = (Kind.FORBIDDEN, "The client certificate has expired.")
    FOREIGN = (Kind.FORBIDDEN, "The client certificate was not issued by an authority of this label.")
    NOT_FOR_CLIENTS = (Kind.FORBIDDEN, "The client certificate is not for client authentication.")
    UNUSABLE = (Kind.FORBIDDEN, "The client certificate cannot be accepted.")
    REVOKED = (Kind.FORBIDDEN, "The client certificate is revoked.")
    SUPERSEDED = (Kind.FORBIDDEN, "The client certificate was renewed already: use its successor.")
    NOT_ON_RECORD = (Kind.FORBIDDEN, "The client certificate is not on record here.")

    REQUEST_MALFORMED = (Kind.MALFORMED, "The certification request cannot be read.")
    REQUEST_AGAINST_POLICY = (Kind.FORBIDDEN, "The certification request asks for what is not given here.")
    REQUEST_NAMES_NO_DEVICE = (Kind.MALFORMED, "The request must name one device by one common name.")
    OTHER_NAMES = (Kind.FORBIDDEN, "The only alternative name may be the URI of the device in the common name.")
    NAMES_DIFFER = (Kind.FORBIDDEN, "Subject and alternative name must be identical to the certificate's.")
    NOT_NAMED = (Kind.FORBIDDEN, "The client certificate does not entitle to this device identifier.")
    NOT_LINKED = (Kind.FORBIDDEN, "The request's challengePassword must link it to this TLS connection.")
    LINKED_ELSEWHERE = (Kind.FORBIDDEN, "The request's challengePassword is not that of this TLS connection.")
    NO_CONNECTION_TO_LINK = (Kind.FORBIDDEN, "TLS ends at a proxy: no request can be linked to a connection there.")
    UNKNOWN_DECRYPTION_KEY = (Kind.MALFORMED, "The decryption key that the request names is not known here.")
    KEY_PROTECTION_NOT_OFFERED = (Kind.FORBIDDEN, "The key can be encrypted in no way that the request lists.")
    KEY_MUST_BE_ENCRYPTED = (Kind.FORBIDDEN, "Keys leave here only encrypted: name a decryption key in the request.")
    PATH_TOO_LONG = (Kind.FORBIDDEN, "The client certificate is too many steps below an authority of this label.")
    FORWARDED_MALFORMED = (Kind.MALFORMED, "The client certificate that the proxy passes on cannot be read.")
    FORWARDED_OTHERWISE = (Kind.MALFORMED, "The proxy passes on a client certificate in a header that is not its own.")

    NO_SECRET = (Kind.UNAUTHENTICATED, "Present an enrolment secret by HTTP Basic authentication.")
    SECRET_REFUSED = (Kind.UNAUTHENTICATED, "The enrolment secret was not accepted.")
    SECRET_SPENT = (Kind.FORBIDDEN, "The enrolment secret was used up.")
    SECRET_NOT_NAMED = (Kind.FORBIDDEN, "The enrolment secret does not entitle to this device identifier.")
    NO_TOKEN = (Kind.UNAUTHENTICATED, "Present a bearer token.")
    TOKEN_REFUSED = (Kind.UNAUTHENTICATED, "The token was not accepted.")
    TOKEN_NOT_NAMED = (Kind.FORBIDDEN, "The token does not entitle to this device identifier.")
    TOKEN_UNJUDGED = (Kind.UNAVAILABLE, "The token cannot be judged at this moment.")
    WEBHOOK_DENIED = (Kind.FORBIDDEN, "The operator's own service does not allow this enrolment.")
    WEBHOOK_SILENT = (Kind.UNAVAILABLE, "The operator's own service gave no answer.")
    REJECTED = (Kind.FORBIDDEN, "An operator has rejected this request.")
    TOO_MANY_WAIT = (Kind.THROTTLED, "Too many requests wait for an operator.")

    NOT_REGISTERED = (Kind.FORBIDDEN, "This label enrols only devices that were registered before.")
    REGISTERED_ELSEWHERE = (Kind.FORBIDDEN, "The device was registered for another label: enrol under that one.")
    NOT_BOUND = (Kind.FORBIDDEN, "The device is bound to another bootstrap certificate, or to none.")
    OTHER_TENANT = (Kind.FORBIDDEN, "This label does not enrol that device.")
    OTHER_LABEL = (Kind.FORBIDDEN, "The device was enrolled under another label: renew under that one.")
    TENANT_BLOCKED = (Kind.FORBIDDEN, "The device's group is blocked.")
    IDENTITY_SUSPENDED = (Kind.FORBIDDEN, "The device's identity is not active.")
    DECOMMISSIONED = (Kind.FORBIDDEN, "The device is decommissioned.")
    NEVER_REPLACED = (Kind.FORBIDDEN, "The device has an identity, and this label replaces none.")
    HAS_IDENTITY = (Kind.FORBIDDEN, "The device has an identity; an operator must allow its replacement first.")
    NAME_TAKEN = (Kind.FORBIDDEN, "Another identity of the group has the device's name.")
    NO_ROLE = (Kind.FORBIDDEN, "The device's group lacks the role that this label gives.")
    NOT_THE_DEVICE = (Kind.FORBIDDEN, "The client certificate is not of a device that is registered now.")
    PROVES_SOMEBODY = (Kind.CONFLICT, "The certificate proves an identity already.")
    NOT_ACTIVE = (Kind.CONFLICT, "The certificate is not active, or its period does not include now.")
    OTHER_AUTHORITY = (Kind.CONFLICT, "The certificate was not issued by the authority of the label.")
    OTHER_DEVICE = (Kind.CONFLICT, "The certificate does not name this device.")
    TOO_EARLY = (Kind.FORBIDDEN, "It is too early to renew the client certificate.")
    KEY_MUST_CHANGE = (Kind.FORBIDDEN, "This label renews only with a new key.")
    KEY_MUST_STAY = (Kind.FORBIDDEN, "This label renews only with the same key.")
    KEY_TAKEN = (Kind.FORBIDDEN, "The public key belongs to somebody else: make a new one.")
    KEY_COMPROMISED = (Kind.FORBIDDEN, "The public key was compromised: make a new one.")

    @property
    def kind(self) -> Kind:
        """Who can mend it."""
        return self.value[0]

    @property
    def sentence(self) -> str:
        """What the device is told."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Refuse:
    """No, and why; `detail` says more, for the log."""

    refusal: Refusal
    detail: str = ""

    def as_error(self) -> Refused:
        """Return what is raised for it."""
        reason = f"{self.refusal.name}: {self.detail or self.refusal.sentence}"
        retry_after = _RETRY_AFTER_SECONDS.get(self.refusal.kind)
        return Refused(self.refusal.kind, self.refusal.sentence, reason=reason, retry_after=retry_after)


_RETRY_AFTER_SECONDS: Final = {Kind.UNAVAILABLE: 5, Kind.THROTTLED: 60}
"""When what is refused for now may be asked again."""


@dataclass(frozen=True, slots=True)
class Proceed:
    """Yes: issue, if the facts are still these."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """The request was answered before: give the same certificate again."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet: an operator has to decide. The same request may be sent again after `retry_after` seconds (202)."""

    retry_after: int


Decision = Proceed | Repeat | Refuse
PROCEED: Final = Proceed()
REPEAT: Final = Repeat()
