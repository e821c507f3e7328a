"""A device's folder: its keys and certificates on disk, so that a crash at any moment loses nothing.

| file | what it is |
|---|---|
| `device.id` | the device's identifier |
| `root.pem` | the roots that are trusted |
| `bootstrap.pem`, `bootstrap.key` | what it came out of the factory with; or `bootstrap.uri` instead of the key |
| `device.pem`, `device.key` | its certificate and key, for whoever connects: always a pair (`est.client.pair`) |
| `device.uri` | instead of `device.key`: where the key is in a token |
| `next.key`, `next.csr`, `next.pem` | a key that is being certified, its request if it is kept, and the answer |
| `next.uri` | instead of `next.key`: where in a token the key is, or is just going to be made |
| `spent.uri` | which keys of a token are to be destroyed, a line each (`est.client.own`) |

The rules:

1. A key is on the disk before anything about it is told to anybody, with mode 0600; of one in a token, its name before
   it is made. The same key is asked with until it is certified or given up, so that a lost answer is found again.
2. The answer is on the disk, as `next.pem`, before the pair is touched. From then on every step may be repeated;
   whoever finds an answer finishes it (`recover`):

   | next key | `next.pem` | what is done |
   |---|---|---|
   | - | - | nothing |
   | there | - | nothing: the key waits for its answer |
   | there | there | key and answer become the pair; then the next key goes, and last `next.pem` |
   | - | there | the present key and the answer become the pair; then `next.pem` goes |
3. An answer that belongs to neither key never becomes a part of the pair: it is put aside. Which key of a token an
   answer is for can be told without the token: for the present one if it has the present certificate's key.
4. A URI names a module that will be run, so it is believed only in a file of root's or of the user who reads it.
5. A token's key that leaves the pair, or is given up, is noted in `spent.uri` before that, and only what neither the
   pair nor `next.uri` names is ever taken for spent.
"""

from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from os import geteuid, urandom
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.errors import CertificateRefused
from certs.names import subject_identifier
from certs.pem import read_certificates, write_certificates
from est.client.files import PRIVATE, locked, move, remove, write_whole
from est.client.keys import KeyKind, KeyUnusable, PrivateKey, make_key, public_bytes, read_key, write_key
from est.client.pair import CERTIFICATE, KEY, URI, Pair
from est.client.request import RequestTemplate
from est.client.tls import Identification
from est.client.token_uri import Token, TokenKey, read_uri

_IDENTIFIER_BYTES = 16


class FolderUnusable(Exception):
    """A folder that lacks something, or holds what cannot be used; the sentence says what and what to do."""


class DeviceFolder:
    """The folder of one device. Whoever changes something holds its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = path / "root.pem"
        self.bootstrap = Identification(path / "bootstrap.pem", path / "bootstrap.key")
        self.own = Identification(path / "device.pem", path / "device.key")
        self.status = path / "status.json"
        self.uri = path / "device.uri"
        self._pair = Pair(path)
        self._bootstrap_uri = path / "bootstrap.uri"
        self._identifier = path / "device.id"
        self._next = Identification(path / "next.pem", path / "next.key")
        self._next_request = path / "next.csr"
        self._next_uri = path / "next.uri"
        self._spent = path / "spent.uri"

    def lock(self) -> AbstractContextManager[None]:
        """Hold the folder; raise `FolderBusy` if another process does."""
        if not self.path.is_dir():
            raise FolderUnusable(f"There is no folder {self.path}.")
        return locked(self.path)

    def identifier(self) -> str:
        """Return the device's identifier: as written down, or as the certificate says.

        Raises:
            FolderUnusable: Nothing says it.
        """
        if self._identifier.exists():
            return read(self._identifier).decode("utf-8", "replace").strip()
        certificate = self.certificate()
        if certificate is None:
            raise FolderUnusable(f"Nothing in {self.path} says which device this is: enrol it with --id.")
        try:
            return subject_identifier(certificate.subject)
        except CertificateRefused as refusal:
            raise FolderUnusable(f"{self.own.certificate} names no device: {refusal}") from refusal

    def keep_identifier(self, identifier: str) -> None:
        """Write the identifier down."""
        write_whole(self._identifier, f"{identifier}\n".encode())

    def keep_roots(self, roots: bytes) -> None:
        """Write down whom to trust."""
        write_whole(self.root, roots)

    def certificate(self) -> x509.Certificate | None:
        """Return the device's certificate; None if it has none yet.

        Raises:
            FolderUnusable: It cannot be read.
        """
        found = self._contents(CERTIFICATE)
        return _read_certificate(self.own.certificate, found[CERTIFICATE]) if found else None

    def key(self) -> PrivateKey:
        """Return the device's key; raise `FolderUnusable`."""
        found = self._contents(KEY)
        return _read_key(self.own.key, found[KEY] if found else read(self.own.key))

    def is_pair(self) -> bool:
        """Say whether the device's certificate is that of its key."""
        found = self._contents(CERTIFICATE, KEY)
        if len(found) < 2:  # noqa: PLR2004 - a certificate and a key
            return False
        certificate = _read_certificate(self.own.certificate, found[CERTIFICATE])
        return is_for(certificate, _read_key(self.own.key, found[KEY]))

    def token_key(self) -> TokenKey | None:
        """Return where in a token the device's key is; None if it is in none."""
        found = self._contents(URI)
        if not found:
            return None
        _check_owner(self.uri)
        return _read_uri(self.uri, found[URI].decode("utf-8", "replace"))

    def bootstrap_token_key(self) -> TokenKey | None:
        """Return where in a token the bootstrap certificate's key is; None if it is in none."""
        return _uri_in(self._bootstrap_uri) if self._bootstrap_uri.exists() else None

    def pending(self) -> PrivateKey | TokenKey | None:
        """Return the key that waits for its certificate, if there is one."""
        if self._next_uri.exists():
            return _uri_in(self._next_uri)
        return _key(self._next.key) if self._next.key.exists() else None

    def begin(self, kind: KeyKind) -> PrivateKey:
        """Return the key to ask with, by rule 1: the one that waits, or a new one of this kind, on disk already.

        Raises:
            FolderUnusable: One in a token waits.
        """
        pending = self.pending()
        if isinstance(pending, TokenKey):
            raise FolderUnusable(f"A key in a token waits for its certificate ({pending}): give --start-over.")
        if pending is None:
            pending = make_key(kind)
            write_whole(self._next.key, write_key(pending), PRIVATE)
        return pending

    def begin_in_token(self, token: Token, label: str, found: TokenKey | None = None) -> TokenKey:
        """Return which key of a token to ask with, by rule 1: the one that waits, the one found, or one to be made.

        Raises:
            FolderUnusable: One in a file waits.
        """
        pending = self.pending()
        if pending is not None and not isinstance(pending, TokenKey):
            raise FolderUnusable(f"A key in a file waits for its certificate ({self._next.key}): give --start-over.")
        if pending is None or pending.token != token:
            if pending is None:
                pending = found or TokenKey(token, urandom(_IDENTIFIER_BYTES), label)
            pending = replace(pending, token=token)
            write_whole(self._next_uri, _line(pending))
        return pending

    def reach_by(self, token: Token) -> None:
        """Write down another way to the token that the device's key is in."""
        key = self.token_key()
        if key is not None and key.token != token:
            self._pair.replace(read(self.own.certificate), URI, _line(replace(key, token=token)))

    def resume(self, template: RequestTemplate) -> bytes | RequestTemplate:
        """Return the request to send: the very one that was sent before, if it asks for the same.

        One that proves possession is signed for each connection, so that nothing of it is kept.
        """
        if template.proves_possession:
            return template
        if self._next_request.exists():
            kept = read(self._next_request)
            if template.is_signed_as(kept):
                return kept
        signed = template.sign()
        write_whole(self._next_request, signed)
        return signed

    def finish(self, certificate: x509.Certificate) -> None:
        """Take the answer in, by rule 2."""
        write_whole(self._next.certificate, write_certificates([certificate]))
        self.recover()

    def recover(self) -> None:
        """Finish what was interrupted, by rules 2 and 3."""
        if not self._next.certificate.exists():
            return
        answer = _certificate(self._next.certificate)
        key = self._key_of(answer)
        if key is None:
            move(self._next.certificate, self.path / "stray.pem")
            return
        present = self.token_key()
        if present is not None and not (isinstance(key, TokenKey) and key.is_same_as(present)):
            self._spend(present)
        content = read(self._next.certificate)
        if isinstance(key, TokenKey):
            self._pair.replace(content, URI, _line(key))
        else:
            self._pair.replace(content, KEY, write_key(key))
        remove(self._next_request)
        remove(self._next.key)
        remove(self._next_uri)
        remove(self._next.certificate)

    def _key_of(self, answer: x509.Certificate) -> PrivateKey | TokenKey | None:
        """Return the key that an answer is for, by rules 2 and 3."""
        pending, present = self.pending(), self.certificate()
        renews = present is not None and present.public_key() == answer.public_key()
        if isinstance(pending, TokenKey):
            if not renews:
                return pending
        elif pending is not None and is_for(answer, pending):
            return pending
        if (key := self.token_key()) is not None:
            return key if renews or present is None else None
        return self.key() if self.own.key.exists() and is_for(answer, self.key()) else None

    def give_up(self) -> bool:
        """Give up the key that waits for its certificate; say whether there was one."""
        pending = self.pending()
        if isinstance(pending, TokenKey):
            self._spend(pending)
        remove(self._next.key)
        remove(self._next_uri)
        remove(self._next_request)
        return pending is not None

    def spent(self) -> tuple[TokenKey, ...]:
        """Return the keys of a token that are to be destroyed, by rule 5."""
        kept = [one for one in (self.token_key(), self.pending()) if isinstance(one, TokenKey)]
        noted = map(partial(_read_uri, self._spent), self._noted())
        return tuple(one for one in noted if not any(one.is_same_as(other) for other in kept))

    def forget_spent(self, key: TokenKey) -> None:
        """Strike out a key that was destroyed."""
        left = [one for one in self._noted() if not _read_uri(self._spent, one).is_same_as(key)]
        if left:
            write_whole(self._spent, "".join(f"{one}\n" for one in left).encode())
        else:
            remove(self._spent)

    def _spend(self, key: TokenKey) -> None:
        noted = self._noted()
        if key.is_ours and key.uri() not in noted:
            write_whole(self._spent, "".join(f"{one}\n" for one in (*noted, key.uri())).encode())

    def _noted(self) -> list[str]:
        if not self._spent.exists():
            return []
        _check_owner(self._spent)
        return read(self._spent).decode("utf-8", "replace").splitlines()

    def take(self, key: PrivateKey, certificate: x509.Certificate) -> None:
        """Take in a pair that was made elsewhere: by the server, at its `serverkeygen`."""
        if not is_for(certificate, key):
            raise FolderUnusable("The certificate is not that of the key.")
        self.give_up()
        write_whole(self._next.key, write_key(key), PRIVATE)
        self.finish(certificate)

    def _contents(self, *names: str) -> dict[str, bytes]:
        try:
            return self._pair.contents(*names)
        except OSError as error:
            raise FolderUnusable(f"{error.filename} cannot be read: {error.strerror}.") from error


def is_for(certificate: x509.Certificate, key: PrivateKey) -> bool:
    """Say whether a certificate is that of a key."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return spki == public_bytes(key)


def read(file: Path) -> bytes:
    """Return a file's content; raise `FolderUnusable`."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise FolderUnusable(f"{file} cannot be read: {error.strerror}.") from error


def _certificate(file: Path) -> x509.Certificate:
    return _read_certificate(file, read(file))


def _read_certificate(file: Path, content: bytes) -> x509.Certificate:
    try:
        return read_certificates(content)[0]
    except CertificateRefused as refusal:
        raise FolderUnusable(f"{file} holds no certificate: {refusal}.") from refusal


def _line(key: TokenKey) -> bytes:
    return f"{key.uri()}\n".encode()


def _uri_in(file: Path) -> TokenKey:
    _check_owner(file)
    return _read_uri(file, read(file).decode("utf-8", "replace"))


def _check_owner(file: Path) -> None:
    """See to it that who wrote a URI may have the reader run a module, by rule 4."""
    try:
        owner = file.stat().st_uid
    except OSError as error:
        raise FolderUnusable(f"{file} cannot be read: {error.strerror}.") from error
    if owner not in {0, geteuid()}:
        raise FolderUnusable(
            f"{file} names a module to run, and belongs to another user ({owner}): run this as that one."
        )


def _read_uri(file: Path, text: str) -> TokenKey:
    try:
        return read_uri(text)
    except KeyUnusable as error:
        raise FolderUnusable(f"{file}: {error}.") from error


def _key(file: Path) -> PrivateKey:
    return _read_key(file, read(file))


def _read_key(file: Path, content: bytes) -> PrivateKey:
    try:
        return read_key(content)
    except KeyUnusable as error:
        raise FolderUnusable(f"{file}: {error}.") from error
