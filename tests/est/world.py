"""A deployment that speaks EST over real TLS, and what clients need to talk to it."""

import asyncio
import subprocess
from base64 import encodebytes
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address, ip_network
from os import urandom
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID, NameOID

from ca.inventory import AuthorityKind
from ca.signers import SoftwareSigner
from certs.cms import SigningIdentity
from certs.pem import write_certificates
from certs.pkcs7 import parse_certs_only
from doorward.listener import ListenerLimits, listening_sockets, serve_https
from doorward.outbound import HttpsOutbound
from doorward.tls import ServerIdentity, ServerTLS
from est.administration import ProfileService
from est.approvals import ApprovalService
from est.authentication.approval import Approvals
from est.authentication.openid import Issuers
from est.authentication.outbound import Outbound
from est.authentication.secret import Secrets
from est.authentication.table import Authentication
from est.authentication.token import Tokens
from est.authentication.webhook import Webhooks
from est.decryption_keys import DecryptionKeys
from est.http.operations import routes
from est.profiles import EnrolmentMode, EnrolmentProfile
from est.secrets import SecretService
from est.server_keys import ServerKeys
from est.service import EstService
from est.store.profiles import insert_profile
from iam.access import Authenticated
from iam.errors import unauthenticated
from iam.guard import Guard
from iam.model import Tenant
from iam.passwords import PasswordHasher
from iam.store.database import EVERYWHERE
from tests.ca.world import MASTER_KEY, StoreGate, World

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Answer:
    """What curl got."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Holder:
    """A certificate with its key, in files, as devices have them."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    certificate_file: Path
    key_file: Path

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def serial(self) -> bytes:
        """The serial number as the store has it: at least 16 bytes."""
        number = self.certificate.serial_number
        return number.to_bytes(max(16, (number.bit_length() + 7) // 8))


@dataclass
class EstWorld:
    """The world, its EST listener, and a folder for clients' files."""

    world: World
    service: EstService
    profiles: ProfileService
    decryption_keys: DecryptionKeys
    secrets: SecretService
    approvals: ApprovalService
    url: str
    root_file: Path
    folder: Path

    def hold(self, certificates: Sequence[x509.Certificate], key: ec.EllipticCurvePrivateKey) -> Holder:
        name = uuid4().hex
        certificate_file, key_file = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate_file.write_bytes(write_certificates(certificates))
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return Holder(certificates[0], key, certificate_file, key_file)

    async def bootstrap(self, identifier: str) -> Holder:
        key = ec.generate_private_key(ec.SECP256R1())
        made = await self.world.service.issue_bootstrap(identifier, key.public_key(), actor="test")
        return self.hold(x509.load_pem_x509_certificates(made.chain), key)

    async def enrolled(self, identifier: str, *, label: str = "default") -> Holder:
        """Enrol a device with a bootstrap certificate of its own, below the wire."""
        bootstrap = await self.bootstrap(identifier)
        key = ec.generate_private_key(ec.SECP256R1())
        answer = await self.service.enrol(label, (bootstrap.der,), b64(request(key, identifier)))
        return self.hold([only(answer)], key)

    def signed_by(
        self,
        authority: tuple[x509.Name, ec.EllipticCurvePrivateKey],
        identifier: str,
        *,
        begins: timedelta = -DAY,
        ends: timedelta = DAY,
        usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
        is_authority: bool = False,
        serial: int | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Holder:
        """Make a certificate that our own code would not make, in files."""
        name, authority_key = authority
        key = key or ec.generate_private_key(ec.SECP256R1())
        now = self.world.clock()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identifier)]))
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"urn:doorward:device:{identifier}")]),
                critical=False,
            )
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return self.hold([builder.sign(authority_key, hashes.SHA256())], key)

    def authority(self, kind: AuthorityKind) -> tuple[x509.Name, ec.EllipticCurvePrivateKey]:
        """Give an authority of ours as `signed_by` takes it: with the key that only a test takes out."""
        one = self.world.authorities.current(kind)
        assert isinstance(one.signer, SoftwareSigner)
        return one.certificate.subject, one.signer._private_key

    def impostor(self, kind: AuthorityKind) -> tuple[x509.Name, ec.EllipticCurvePrivateKey]:
        """Give an authority of the same name as ours, with another key."""
        return self.world.authorities.current(kind).certificate.subject, ec.generate_private_key(ec.SECP256R1())

    async def written(self) -> tuple[int, ...]:
        """Count all that an enrolment writes."""
        tables = ("identity", "identity_role", "device", "device_key", "certificate", "outbox", "audit_pending")
        return tuple([await self.world.value(f"SELECT count(*) FROM {one}") for one in tables])  # noqa: S608 - from the line above

    async def label(self, name: str, tenant: UUID | None = None, **settings: Any) -> EnrolmentProfile:
        factory = self.world.authorities.current(AuthorityKind.FACTORY)
        given: dict[str, Any] = {
            "id": uuid4(),
            "tenant": tenant or self.world.system.id,
            "name": name,
            "mode": EnrolmentMode.JITP,
            "authority": self.world.authorities.current(AuthorityKind.ISSUING).id,
            "certificate_profile": "device",
            "bootstrap_anchors": (factory.der,),
            "identifier_pattern": None,
            "role_name": "device",
            "expired_may_renew": False,
            "previous_grace": timedelta(0),
            "created": self.world.clock(),
            **settings,
        }
        profile = EnrolmentProfile(**given)
        async with self.world.pool.transaction(EVERYWHERE) as transaction:
            await insert_profile(transaction, profile)
        return profile

    async def curl(self, path: str, *arguments: str, holder: Holder | None = None, body: bytes | None = None) -> Answer:
        """Ask with curl, which trusts the root alone; it runs in a thread, since the server is in this one."""
        return await asyncio.to_thread(self._curl, path, arguments, holder, body)

    def _curl(self, path: str, arguments: Sequence[str], holder: Holder | None, body: bytes | None) -> Answer:
        command = ["curl", "-sS", "-i", "--cacert", str(self.root_file), "--max-time", "20"]
        if holder is not None:
            command += ["--cert", str(holder.certificate_file), "--key", str(holder.key_file)]
        if body is not None:
            command += ["--data-binary", "@-", "-H", "Expect:"]
        done = subprocess.run(
            [*command, *arguments, f"{self.url}/.well-known/est{path}"], input=body, capture_output=True, check=False
        )
        assert done.stdout, done.stderr.decode()
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        return Answer(int(status.split()[1]), dict(line.split(": ", 1) for line in lines), content)

    async def enrol(self, operation: str, holder: Holder | None, body: bytes, *, label: str | None = None) -> Answer:
        prefix = f"/{label}" if label else ""
        return await self.curl(
            f"{prefix}/{operation}", "-H", "Content-Type: application/pkcs10", holder=holder, body=body
        )


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def makers_chain(est: EstWorld, **fields: Any) -> tuple[Holder, Holder, Holder]:
    """Make a maker's root, an authority below it, and a bootstrap certificate below that."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Maker")])
    maker = est.signed_by((name, key), "Maker", is_authority=True, usage=None, key=key)
    below = est.signed_by((name, key), "Line", is_authority=True, usage=None)
    return maker, below, est.signed_by((below.certificate.subject, below.key), "meter-001", **fields)


def request(
    key: ec.EllipticCurvePrivateKey,
    identifier: str,
    *,
    alternative_names: Sequence[x509.GeneralName] | None = None,
    extensions: Sequence[x509.ExtensionType] = (),
    challenge_password: str | None = None,
) -> bytes:
    """Return a CSR in DER, with the URI of the device unless told otherwise."""
    names = (
        [x509.UniformResourceIdentifier(f"urn:doorward:device:{identifier}")]
        if alternative_names is None
        else list(alternative_names)
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identifier)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for one in extensions:
        builder = builder.add_extension(one, critical=False)
    if challenge_password is not None:
        builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge_password.encode())
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def b64(der: bytes) -> bytes:
    return encodebytes(der)


def only(certs_only_der: bytes) -> x509.Certificate:
    (one,) = parse_certs_only(certs_only_der)
    return one


class NoGate:
    """Nobody signs in here: the operations of EST are public."""

    async def authenticate(self, authorization: str) -> Authenticated:
        raise unauthenticated(f"nobody has a token here: {authorization}")

    async def find_tenant(self, name: str) -> Tenant | None:
        raise unauthenticated(f"nobody asks for {name}")


@asynccontextmanager
async def running_est(
    world: World, folder: Path, *, outbound: Outbound | None = None, proxies: frozenset[str] = frozenset()
) -> AsyncIterator[EstWorld]:
    """Serve EST on a free port of the loopback, with a server certificate of our own issuing authority."""
    passwords = PasswordHasher(slots=1, queue=8)
    asked = outbound or HttpsOutbound([ip_network("127.0.0.0/8")])
    authentication = Authentication(
        Secrets(world.pool, passwords),
        Tokens(world.pool, StoreGate(world).own_token, Issuers(asked)),
        Webhooks(asked, MASTER_KEY, urandom, lambda token: token.startswith("idt-")),
        Approvals(world.pool, urandom),
        proxies,
    )
    made = await world.service.server_certificate(["localhost"], [ip_address("127.0.0.1")])
    identity = ServerIdentity.from_pem(made.chain, made.private_key)
    assert isinstance(identity.private_key, ec.EllipticCurvePrivateKey)
    signer = SigningIdentity(identity.certificates, identity.private_key)
    decryption_keys = DecryptionKeys(world.pool, MASTER_KEY, world.clock, urandom)
    server_keys = ServerKeys(decryption_keys, lambda: signer, urandom)
    service = EstService(world.pool, world.authorities, authentication, server_keys, world.clock, urandom)
    await service.ensure_default_profile(world.system.id)
    tls = ServerTLS(identity, ask_client_certificate=True)
    runner = web.AppRunner(Guard(NoGate()).application(routes(service)))
    await runner.setup()
    sockets = listening_sockets("127.0.0.1", 0)
    listener = await serve_https(runner, sockets, tls, limits=ListenerLimits())
    root_file = folder / "root.pem"
    root_file.write_bytes(write_certificates([world.authorities.by_name("root").certificate]))
    profiles = ProfileService(world.pool, world.revocation, MASTER_KEY, world.clock, urandom)
    secrets = SecretService(world.pool, passwords, world.clock, urandom)
    url = f"https://127.0.0.1:{listener.addresses[0][1]}"
    try:
        approvals = ApprovalService(world.pool)
        yield EstWorld(world, service, profiles, decryption_keys, secrets, approvals, url, root_file, folder)
    finally:
        passwords.close()
        await listener.close(grace_seconds=2)
        await runner.cleanup()
