"""A device with a key in a token (SoftHSM 2) of this process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from certs.pem import write_certificates
from est.client import DeviceFolder, KeyKind, Server, Token, TokenKey, Wish, enrol, renew, write_key
from est.client.own import key_fits
from est.client.token import _REFUSED_PINS, make_key
from est.client.token_tls import TokenIdentification
from tests.ca.softhsm import LABEL, PIN, make_token
from tests.est.world import EstWorld

NAME = "meter-001"


class SoftToken:
    """An empty token, and a file with its PIN."""

    def __init__(self, folder: Path, module: Path) -> None:
        self.folder = folder
        self.pin_file = folder / "pin"
        self.pin_file.write_text(f"{PIN}\n")
        self.token = Token(module, LABEL, self.pin_file)

    @contextmanager
    def session(self) -> Iterator[Any]:
        token = pkcs11.lib(str(self.token.module)).get_token(token_label=LABEL)
        with token.open(rw=True, user_pin=PIN) as session:
            yield session

    def identifiers(self) -> set[bytes]:
        """Return the ids of the private keys in the token."""
        with self.session() as session:
            found = session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY})
            return {bytes(one[pkcs11.Attribute.ID]) for one in found}

    def identification(self, kind: KeyKind = KeyKind.P256) -> TokenIdentification:
        """Make a key, and a certificate for it of which nobody knows who issued it."""
        key = TokenKey(self.token, b"\1", NAME)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
        now = datetime.now(UTC)
        public: Any = load_der_public_key(make_key(key, kind).spki)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(public)
        builder = builder.serial_number(7).not_valid_before(now).not_valid_after(now + timedelta(days=1))
        certificate = builder.sign(ec.generate_private_key(ec.SECP256R1()), SHA256())
        file = self.folder / "shown.pem"
        file.write_bytes(write_certificates([certificate]))
        return TokenIdentification(file, key)


@contextmanager
def soft_token(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftToken]:
    """Have an empty token in a folder, and nothing remembered of another one."""
    module = make_token(folder, monkeypatch)
    library = pkcs11.lib(str(module))
    library.reinitialize()
    yield SoftToken(folder, module)
    _REFUSED_PINS.clear()
    library.finalize()


async def factory_new(est: EstWorld, path: Path) -> DeviceFolder:
    """Return the folder of a device out of the factory."""
    folder = DeviceFolder(path)
    bootstrap = await est.bootstrap(NAME)
    folder.keep_identifier(NAME)
    folder.keep_roots(est.root_file.read_bytes())
    folder.bootstrap.certificate.write_bytes(write_certificates([bootstrap.certificate]))
    folder.bootstrap.key.write_bytes(write_key(bootstrap.key))
    return folder


class Device:
    """A device out of the factory, with an empty token."""

    def __init__(self, est: EstWorld, folder: DeviceFolder, soft: SoftToken) -> None:
        self.est, self.folder, self.soft = est, folder, soft
        self.server = Server(est.url, clock=est.world.clock)
        self.wish = Wish(token=soft.token)

    async def enrol(self, wish: Wish | None = None, **more: Any) -> None:
        await asyncio.to_thread(enrol, self.folder, self.server, wish or self.wish, **more)

    async def renew(self, wish: Wish | None = None, **more: Any) -> None:
        await asyncio.to_thread(renew, self.folder, self.server, wish or Wish(), **more)

    def key(self) -> TokenKey:
        found = self.folder.token_key()
        assert found is not None
        assert found.identifier is not None
        return found

    def serial(self) -> int:
        found = self.folder.certificate()
        assert found is not None
        return found.serial_number

    def assert_has_only(self, *keys: TokenKey) -> None:
        """The token has these keys and no other; the certificate is the present one's."""
        assert self.soft.identifiers() == {key.identifier for key in keys}
        assert key_fits(self.folder) is True
