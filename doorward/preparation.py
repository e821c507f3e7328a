"""What must be done to a node before its workers start: schema, foundation, authorities, certificates of its listeners.

All of it is idempotent and runs at every start. The certificates of the listeners are renewed when two thirds of their
life are over, while everything runs: workers take up the new files by themselves, nats-server is told to read again. A
certificate that cannot be read, or whose key is another's, or whose authority is trusted no more, is renewed too.

What certificates name, the revocation list and the OCSP responder of each authority, is there before anybody can ask
for it; from then on the jobs keep it fresh.

The files of what others trust (the root, in all its generations; the authorities of devices) follow the authorities
within a second or so; the broker is told of those of devices. The last authority of devices is never taken out of the
file, since a broker does not start without any: whoever comes by it is refused when the broker asks.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ca.authorities import Authorities
from ca.inventory import AuthorityKind
from ca.publication import Publication
from ca.service import AuthorityService
from certs.cms import SigningIdentity
from certs.pem import fingerprint_sha256, write_certificates
from doorward.config import Configuration
from doorward.database import Pool, migrate
from doorward.embedded.process import write_private
from doorward.keys import keystore
from doorward.publication_terms import list_publisher, ocsp_responders
from doorward.tls import ServerIdentity, ServerIdentityError
from iam.errors import Kind, Refused
from iam.identifiers import Clock, Random
from iam.sealing import MasterKey
from iam.service.foundation import lay_foundation

_LOOK_AGAIN = timedelta(minutes=10)
_FOLLOW_SECONDS = 1.0
_POOL_SIZE = 2

_log = logging.getLogger("doorward.preparation")


def server_certificate_files(data: Path) -> tuple[Path, Path]:
    """Return where the listeners' certificate chain and key are."""
    return data / "tls" / "server.pem", data / "tls" / "server.key"


def signing_identity(data: Path) -> SigningIdentity:
    """Return the listeners' identity, as it signs the keys that are made here; raise `Refused` (unavailable)."""
    certificate, key = server_certificate_files(data)
    try:
        identity = ServerIdentity.from_pem(certificate.read_bytes(), key.read_bytes())
    except (OSError, ServerIdentityError) as error:
        reason = f"the listeners' certificate cannot be used: {error}"
        raise Refused(Kind.UNAVAILABLE, "The server cannot sign now.", reason=reason, retry_after=1) from error
    if not isinstance(identity.private_key, EllipticCurvePrivateKey | RSAPrivateKey):
        raise Refused(Kind.UNAVAILABLE, "The server cannot sign now.", reason="its key is of a kind that signs no CMS")
    return SigningIdentity(identity.certificates, identity.private_key)


def root_file(data: Path) -> Path:
    """Return where the root's certificate is, for clients to trust."""
    return data / "ca" / "root.pem"


def device_anchors_file(data: Path) -> Path:
    """Return where the authorities of devices' certificates are, for nats-server to trust."""
    return data / "ca" / "devices.pem"


def device_anchors(authorities: Authorities) -> bytes:
    """Return the authorities whose certificates a broker takes from devices, in PEM."""
    return write_certificates(one.certificate for one in authorities.device_anchors)


class Preparation:
    """Makes a node ready for its workers, and keeps its certificates fresh: one of the supervisor's services."""

    name = "preparation"

    def __init__(
        self,
        configuration: Configuration,
        database_urls: Callable[[], tuple[str, str]],
        master: MasterKey,
        clock: Clock,
        random: Random,
    ) -> None:
        """Describe it; `database_urls` gives the node's and the owner's URL once the database runs."""
        self._configuration = configuration
        self._database_urls = database_urls
        self._clock = clock
        self._random = random
        self._keystore = keystore(configuration, master, random)
        self._pool: Pool | None = None
        self._authorities: Authorities | None = None
        self._looked = time.monotonic()
        self._renewed: Callable[[], Awaitable[None]] | None = None
        self.root_fingerprint = ""

    def after_renewal(self, listener: Callable[[], Awaitable[None]]) -> None:
        """Await `listener` whenever the listeners' certificate, or what devices are trusted by, is another."""
        self._renewed = listener

    async def start(self) -> None:
        """Do all that is missing; raise `Refused` with what stands in the way."""
        node_url, owner_url = self._database_urls()
        applied = await migrate(owner_url, role_of(node_url))
        if applied:
            _log.info("%d migrations were applied", applied)
        if self._pool is not None:
            await self._pool.close()
        self._pool = await Pool.connect(node_url, self._clock, self._random, size=_POOL_SIZE)
        await self._pool.check_role()
        await lay_foundation(self._pool, self._clock, self._random)
        configuration, clock, random = self._configuration, self._clock, self._random
        self._authorities = Authorities(
            self._pool, self._keystore, clock, random, base_url=configuration.publication_url
        )
        await self._authorities.ensure()
        self.root_fingerprint = fingerprint_sha256(self._authorities.current(AuthorityKind.ROOT).der)
        self._write_trusted(self._authorities)
        await self._renew_if_due(self._authorities)
        await self._publish(self._pool, self._authorities)

    async def ended(self) -> str:
        """Follow the authorities and renew what is due, until the supervisor stops."""
        while True:
            await asyncio.sleep(min(_FOLLOW_SECONDS, _LOOK_AGAIN.total_seconds()))
            try:
                if self._authorities is not None and await self._follow(self._authorities) and self._renewed:
                    await self._renewed()
            except Refused as error:
                _log.warning("the listeners' certificates cannot be looked after now: %s", error.reason)

    async def _publish(self, pool: Pool, authorities: Authorities) -> None:
        """Make the lists and responders that are due; what cannot be made now is left to the jobs."""
        configuration, clock = self._configuration, self._clock
        publisher = list_publisher(configuration, pool, authorities, clock)
        responders = ocsp_responders(configuration, pool, authorities, self._keystore, clock, self._random)
        await Publication(publisher, responders).make_due()

    async def _follow(self, authorities: Authorities) -> bool:
        """Write what has changed, renew what is due, and tell whether the broker has something to read again."""
        has_changed = await authorities.refresh()
        is_written = has_changed and self._write_trusted(authorities)
        if not has_changed and time.monotonic() - self._looked < _LOOK_AGAIN.total_seconds():
            return is_written
        self._looked = time.monotonic()
        return await self._renew_if_due(authorities) or is_written

    def _write_trusted(self, authorities: Authorities) -> bool:
        """Write the files of what others trust; tell whether what devices are trusted by is another than before."""
        data = self._configuration.node.data
        root = authorities.current(AuthorityKind.ROOT)
        trusted = [one for one in reversed(authorities.generations(root.id)) if one.is_trusted] or [root]
        _write_public(root_file(data), write_certificates(one.certificate for one in trusted))
        anchors = device_anchors(authorities)
        return bool(anchors) and _write_public(device_anchors_file(data), anchors)

    async def stop(self) -> None:
        """Leave the database."""
        if self._pool is not None:
            await self._pool.close()

    def hurry(self) -> None:
        """Nothing takes long here."""

    async def _renew_if_due(self, authorities: Authorities) -> bool:
        certificate_file, key_file = server_certificate_files(self._configuration.node.data)
        names, addresses = split_names(self._configuration.node.server_names)
        if self._is_signed_by(authorities, certificate_file) and not self._is_due(
            certificate_file, key_file, names, addresses
        ):
            return False
        if self._pool is None:
            return False
        service = AuthorityService(self._pool, authorities, self._clock, self._random)
        credential = await service.server_certificate(names, addresses)
        certificate_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The key first: whoever reads the new chain finds its key there.
        write_private(key_file, credential.private_key.decode())
        write_private(certificate_file, credential.chain.decode())
        _log.info("the listeners have a new certificate, valid until %s", credential.not_after)
        return True

    def _is_signed_by(self, authorities: Authorities, certificate_file: Path) -> bool:
        """Tell whether an authority that is trusted now signed the listeners' certificate."""
        try:
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
            named = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        except (OSError, ValueError, x509.ExtensionNotFound):
            return False
        return any(one.key_identifier == named for one in authorities.device_anchors)

    def _is_due(
        self,
        certificate_file: Path,
        key_file: Path,
        names: list[str],
        addresses: list[IPv4Address | IPv6Address],
    ) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
            key = load_pem_private_key(key_file.read_bytes(), None)
            held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            if key.public_key() != certificate.public_key():
                return True
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound) as error:
            _log.info("the listeners need a certificate: %s", error)
            return True
        if set(names) != set(held.get_values_for_type(x509.DNSName)):
            return True
        if set(addresses) != set(held.get_values_for_type(x509.IPAddress)):
            return True
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        # One that has not begun was made by a clock that was ahead: nobody believes it now.
        return not begins <= self._clock() <= begins + (ends - begins) * 2 / 3


def split_names(server_names: tuple[str, ...]) -> tuple[list[str], list[IPv4Address | IPv6Address]]:
    """Return the DNS names and the addresses among the names of our listeners."""
    names: list[str] = []
    addresses: list[IPv4Address | IPv6Address] = []
    for name in server_names:
        try:
            addresses.append(ip_address(name))
        except ValueError:
            names.append(name)
    return names, addresses


def role_of(url: str) -> str:
    """Return the role that a database URL names."""
    return unquote(urlsplit(url).username or "")


def _write_public(path: Path, content: bytes) -> bool:
    """Write a file that everybody may read; tell whether it held something else before."""
    if path.exists() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o755)
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(content)
    fresh.chmod(0o644)
    fresh.replace(path)
    return True
