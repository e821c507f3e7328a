"""Keys that are made here, for devices that cannot make one well (RFC 7030 4.4).

The rules:

1. A key is made where the label says so, of the kind that it says, and only for a request that is in order: its client
   judged, its names decided, the facts looked at and nothing found in them that refuses it, what it is to be encrypted
   under found. Few are made at once, since RSA takes its time, and not many wait: others are told to come back. The
   key and the signature in the request count for nothing (4.4.1).
2. The private key is kept nowhere: not stored, not logged, not shown. It leaves once, after its certificate was
   recorded.
3. So an answer that was lost cannot be given again. Whoever asks again by the same credentials, which are this device's
   alone, within `REDELIVERY` of his first request gets another key and certificate; the one before is revoked with
   that. Credentials that serve many devices need an operator's leave for it, as for any replacement.
4. A key that the request names to encrypt it under is one that was registered for this device, or for this label, or
   the client certificate's own, if that may be used so; an unknown one is an error (4.4.1.1, 4.4.1.2). A label may
   refuse to let a key leave in any other way.
5. What is encrypted is signed by the server, who made it (4.4.2).
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certs.cms import (
    Recipient,
    SigningIdentity,
    check_recipient,
    envelop,
    recipient_identifier,
    signed_key_package,
)
from certs.cms_algorithms import ContentCipher
from certs.csr import CertificateRequest, KeylessRequest, NamedRequest
from certs.errors import CertificateRefused
from certs.key_protection import WantedProtection
from certs.keys import PublicKey
from certs.pem import read_certificate
from est.codec import PKCS8, SERVER_GENERATED_KEY
from est.decryption_keys import DecryptionKeys
from est.profiles import EnrolmentMode, EnrolmentProfile, ServerKey
from est.refusals import Refusal, Refuse
from est.rules import Entitlement, judge_request
from est.store.enrolments import Credentials, Redelivery
from iam.errors import Kind, Refused
from iam.identifiers import Random

REDELIVERY: Final = timedelta(minutes=10)
_AT_ONCE: Final = 2
PENDING_MAXIMUM: Final = 32
_RETRY_AFTER_SECONDS: Final = 5

_PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

_MAKERS: Final[dict[ServerKey, Callable[[], _PrivateKey]]] = {
    ServerKey.P256: lambda: ec.generate_private_key(ec.SECP256R1()),
    ServerKey.P384: lambda: ec.generate_private_key(ec.SECP384R1()),
    ServerKey.P521: lambda: ec.generate_private_key(ec.SECP521R1()),
    ServerKey.ED25519: ed25519.Ed25519PrivateKey.generate,
    ServerKey.RSA_2048: lambda: rsa.generate_private_key(65537, 2048),
    ServerKey.RSA_3072: lambda: rsa.generate_private_key(65537, 3072),
    ServerKey.RSA_4096: lambda: rsa.generate_private_key(65537, 4096),
}


@dataclass(frozen=True)
class MadeKey:
    """A key pair; the private half is PKCS #8 in DER."""

    public_key: PublicKey
    private_key: bytes = field(repr=False)


@dataclass(frozen=True)
class KeyPart:
    """A private key as it leaves: its content type, and the DER of it."""

    content_type: str
    der: bytes = field(repr=False)


@dataclass(frozen=True)
class KeyAndCertificate:
    """The answer to serverkeygen: the key's part, and the certificate as certs-only in DER."""

    key: KeyPart
    certificate: bytes


def make_key(kind: ServerKey) -> MadeKey:
    """Return a new key; RSA takes up to seconds, in which other threads run."""
    private_key = _MAKERS[kind]()
    der = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return MadeKey(private_key.public_key(), der)


class ServerKeys:
    """Makes keys for devices, and wraps them as they ask.

    Args:
        signer: Who this server is now.
    """

    def __init__(self, registered: DecryptionKeys, signer: Callable[[], SigningIdentity], random: Random) -> None:
        self._registered = registered
        self._signer = signer
        self._random = random
        self._makers = ThreadPoolExecutor(_AT_ONCE, "server-keys")
        self._pending = 0

    async def make(self, kind: ServerKey) -> MadeKey:
        """Return a new key, made in a thread; others wait for their turn.

        Raises:
            Refused: (unavailable) So many wait already.
        """
        if self._pending >= PENDING_MAXIMUM:
            raise Refused(
                Kind.UNAVAILABLE,
                "Too many keys are being made at this moment.",
                reason=f"{self._pending} keys are asked for and not made yet",
                retry_after=_RETRY_AFTER_SECONDS,
            )
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._makers, make_key, kind)
        finally:
            self._pending -= 1

    def begin(self, profile: EnrolmentProfile, kind: ServerKey) -> "KeyMaking":
        """Return what makes the one key of one request."""
        return KeyMaking(self, profile, kind)

    async def recipient(
        self, profile: EnrolmentProfile, device: str, presented: x509.Certificate | None, wanted: WantedProtection
    ) -> Recipient:
        """Return who may have the key (rule 4); raise `Refused`."""
        try:
            known = await self._registered.find(profile.name, device, wanted.identifier)
            if known is not None and known.secret is not None and not wanted.is_asymmetric:
                return wanted.to_secret(known.secret)
            if known is not None and known.certificate is not None and wanted.is_asymmetric:
                return wanted.to_certificate(known.certificate)
            if presented is not None and wanted.is_asymmetric and recipient_identifier(presented) == wanted.identifier:
                check_recipient(presented)
                return wanted.to_certificate(presented)
        except CertificateRefused as refusal:
            raise Refuse(Refusal.KEY_PROTECTION_NOT_OFFERED, refusal.reason).as_error() from refusal
        raise Refuse(Refusal.UNKNOWN_DECRYPTION_KEY, f"{device}: {wanted.identifier.hex()}").as_error()

    def wrap(self, key: MadeKey, recipient: Recipient, cipher: ContentCipher) -> KeyPart:
        """Return a key signed, and encrypted to its recipient (rule 5)."""
        signed = signed_key_package(key.private_key, self._signer())
        return KeyPart(SERVER_GENERATED_KEY, envelop(signed, recipient, cipher, self._random))


class KeyMaking:
    """The making of one key for one request, from the moment that the request is granted."""

    def __init__(self, keys: ServerKeys, profile: EnrolmentProfile, kind: ServerKey) -> None:
        self._keys = keys
        self._profile = profile
        self._kind = kind
        self._part: KeyPart | None = None

    async def complete(
        self, request: KeylessRequest, device: str, presented: x509.Certificate | None
    ) -> CertificateRequest:
        """Make the key, wrap it as the request wants, and return the request with it; raise `Refused`."""
        wanted = request.protection
        if wanted is None:
            if self._profile.encrypted_server_keys_only:
                raise Refuse(Refusal.KEY_MUST_BE_ENCRYPTED).as_error()
            made = await self._keys.make(self._kind)
            self._part = KeyPart(PKCS8, made.private_key)
            return request.with_key(made.public_key)
        try:
            cipher = wanted.cipher()
        except CertificateRefused as refusal:
            raise Refuse(Refusal.KEY_PROTECTION_NOT_OFFERED, refusal.reason).as_error() from refusal
        recipient = await self._keys.recipient(self._profile, device, presented, wanted)
        made = await self._keys.make(self._kind)
        try:
            self._part = self._keys.wrap(made, recipient, cipher)
        except CertificateRefused as refusal:
            raise judge_request(refusal).as_error() from refusal
        return request.with_key(made.public_key)

    def redelivery(self, entitled: Sequence[Entitlement], credentials: Credentials, device: str) -> Redelivery:
        """Return who may have another key for a device that enrolled by these credentials (rule 3)."""
        # A certificate that was bound before may name the device otherwise: the operator has said whose it is.
        is_bound = self._profile.mode is EnrolmentMode.PRE_REGISTERED
        if not is_bound and not any(device in one.devices for one in entitled):
            return Redelivery(None, REDELIVERY)
        certificate = b"" if credentials.certificate is None else credentials.certificate.sha256
        return Redelivery(sha256(certificate + "\n".join(credentials.names).encode()).digest(), REDELIVERY)

    def finish(self, certificate: bytes) -> KeyAndCertificate:
        """Return the answer, once the certificate (certs-only in DER) is recorded."""
        if self._part is None:
            raise RuntimeError("no key was made yet")
        return KeyAndCertificate(self._part, certificate)


async def with_key(
    request: NamedRequest, device: str, chain: Sequence[bytes], making: KeyMaking | None
) -> CertificateRequest:
    """Return a request with its key, which is made now if the client brings none; `chain` is what he presented."""
    if isinstance(request, CertificateRequest):
        return request
    if making is None:
        raise TypeError("a request without a key is one for a key that is made here")
    return await making.complete(request, device, read_certificate(chain[0]) if chain else None)
