"""What the authority does for others: certificates for servers and for devices to be.

Each method is one transaction: a certificate is in the store before anybody has it. Devices' own certificates are
issued by `est`, which records them together with the device; revoking is in `ca.revocation`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca.authorities import Authorities
from ca.authority import Authority
from ca.inventory import AuthorityKind
from ca.issue import SERIAL_BYTES, Holder, Issued, device_to_be, encoded_key, host
from ca.recording import record_issued
from ca.store.authorities import system_tenant
from certs.keys import PublicKey, check_public_key
from certs.names import device_identifier
from certs.pem import read_certificate, write_certificates
from iam.identifiers import Clock, Random
from iam.store.database import EVERYWHERE, Change, Database

NODE = "doorward"
"""The actor of what a node does by itself."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate with what is needed to use it, all in PEM.

    Attributes:
        chain: The certificate and the authorities between it and the root, leaf first.
        private_key: PKCS #8 without a password; empty where the holder made his own.
    """

    chain: bytes
    private_key: bytes = field(repr=False)
    serial: bytes
    not_after: datetime


class AuthorityService:
    """Certificates for servers and devices to be."""

    def __init__(self, database: Database, authorities: Authorities, clock: Clock, random: Random) -> None:
        self._database = database
        self._authorities = authorities
        self._clock = clock
        self._random = random

    async def server_certificate(
        self, names: Sequence[str], addresses: Sequence[IPv4Address | IPv6Address]
    ) -> Credential:
        """Make a key and a certificate for a server of ours that is reached under these names and addresses.

        Raises:
            Refused: (unavailable) The database or the authority's key is gone.
            CertificateRefused: (policy) A name is none that a server may have.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self._authorities.current(AuthorityKind.ISSUING)
        holder = host(names, addresses, encoded_key(key.public_key()))
        issued = await self._issue(issuer, "server", holder, device=None, actor=NODE)
        return _credential(issued, [issuer.certificate, *self._links_above(issuer)], key)

    async def issue_bootstrap(self, identifier: str, public_key: PublicKey | None = None, *, actor: str) -> Credential:
        """Make what a device is shipped with: a certificate that lets it ask for its first own one.

        Args:
            public_key: The device's; a new key is made and returned if it has none.

        Raises:
            CertificateRefused: The identifier or the key is not acceptable.
        """
        named = device_identifier(identifier)
        key = None
        if public_key is None:
            key = ec.generate_private_key(ec.SECP256R1())
            public_key = key.public_key()
        issuer = self._authorities.current(AuthorityKind.FACTORY)
        holder = device_to_be(named, encoded_key(check_public_key(public_key)))
        issued = await self._issue(issuer, "bootstrap", holder, device=named, actor=actor)
        return _credential(issued, [issuer.certificate, *self._links_above(issuer)], key)

    def _links_above(self, issuer: Authority) -> list[x509.Certificate]:
        """Return what leads from the keys above to those that they followed, for whoever trusts only those."""
        found, one = [], issuer
        while one.parent is not None:
            one = self._authorities.by_id(one.parent)
            if one.links is not None:
                found.append(read_certificate(one.links.new_with_old))
        return found

    async def _issue(
        self, issuer: Authority, profile: str, holder: Holder, *, device: str | None, actor: str
    ) -> Issued:
        now = self._clock()
        template = self._authorities.template(issuer, profile)
        issued = await template.issue_in_turn(holder, now, self._random(SERIAL_BYTES))
        async with self._database.transaction(EVERYWHERE) as transaction:  # the node itself acts, for no tenant
            tenant = await system_tenant(transaction)
            await record_issued(transaction, issued, issuer.id, tenant, device=device)
            data = {"profile": profile, "authority": issuer.name, "device": device}
            await transaction.record(Change(tenant, actor, "certificate.issued", issued.serial.hex(), data))
        return issued


def _credential(
    issued: Issued, above: Sequence[x509.Certificate], key: ec.EllipticCurvePrivateKey | None
) -> Credential:
    private_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) if key else b""
    chain = write_certificates([read_certificate(issued.der), *above])
    return Credential(chain, private_key, issued.serial, issued.not_after)
