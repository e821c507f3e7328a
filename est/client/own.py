"""A device's own key, wherever it is: in a file of its folder, or in a token.

1. A key is where the folder says: `device.key` is one, `device.uri` names one in a token. So is that of the bootstrap
   certificate: `bootstrap.key` or `bootstrap.uri`.
2. A new key is made where it is wanted: in a token if one is given, or if the present key is in one; else in a file.
3. A token's key that was replaced or given up is destroyed, and not before the pair that follows is on the disk. If the
   token is away then, it is destroyed the next time (`spent.uri`).

What speaks with a token needs `doorward[pkcs11]`, and is imported only where a key is in one.
"""

from dataclasses import replace
from typing import Protocol

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from est.client.connection import Identifying
from est.client.folder import DeviceFolder, FolderUnusable
from est.client.keys import KeyKind, KeyUnusable, PrivateKey, Signer
from est.client.tls import Identification
from est.client.token_uri import OURS, Token, TokenKey


class _Tokens(Protocol):
    """What is needed of `est.client.token`."""

    def open_key(self, key: TokenKey, /) -> Signer: ...
    def make_key(self, key: TokenKey, kind: KeyKind, /) -> Signer: ...
    def find_public_key(self, key: TokenKey, /) -> bytes | None: ...
    def find_key(self, token: Token, label: str, /) -> TokenKey | None: ...
    def check_token(self, token: Token, kind: KeyKind, /) -> None: ...
    def check_key(self, key: TokenKey, /) -> None: ...
    def destroy_key(self, key: TokenKey, /) -> None: ...


def own_key(folder: DeviceFolder) -> PrivateKey | Signer:
    """Return the device's key; raise `FolderUnusable` if it is not there."""
    key = folder.token_key()
    return folder.key() if key is None else _tokens().open_key(key)


def own_identification(folder: DeviceFolder) -> Identifying:
    """Return how the device shows who it is."""
    return _identification(folder.own, folder.token_key())


def bootstrap_identification(folder: DeviceFolder) -> Identifying | None:
    """Return how the device shows who it is before it has a certificate of its own; None if it came with none."""
    if not folder.bootstrap.certificate.exists():
        return None
    return _identification(folder.bootstrap, folder.bootstrap_token_key())


def _identification(files: Identification, key: TokenKey | None) -> Identifying:
    if key is None:
        return files
    try:
        from est.client.token_tls import TokenIdentification
    except ImportError as error:
        raise _missing(error) from error
    return TokenIdentification(files.certificate, key)


def key_fits(folder: DeviceFolder) -> bool | None:
    """Say whether the device's certificate is that of its key; None if its token does not say."""
    key, certificate = folder.token_key(), folder.certificate()
    if key is None or certificate is None:
        return folder.is_pair()
    try:
        found = _tokens().find_public_key(key)
    except KeyUnusable:
        return None
    own = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return None if found is None else found == own


def first_key(
    folder: DeviceFolder, token: Token | None, kind: KeyKind, *, anew: bool, called: str | None = None
) -> PrivateKey | Signer:
    """Return the key of an enrolment: the one that waits, the one that has a certificate, or another one.

    In a token that is the one that somebody has left there for the device, or else a new one.

    Args:
        anew: Another one it is, whatever there is.
        called: The label of a key that is in the token already.

    Raises:
        FolderUnusable: By what the folder lacks.
        KeyUnusable: By the token; it has no key of that label, or several.
    """
    pending = folder.pending()
    if not anew:
        if isinstance(pending, TokenKey):
            token = token or pending.token
        elif pending is None and (folder.token_key() is not None or (token is None and folder.is_pair())):
            return own_key(folder)
    if token is None:
        return folder.begin(kind)
    found = None
    if pending is None and (called is not None or not anew):
        found = _tokens().find_key(token, called or label_of(folder))
        if found is None and called is not None:
            raise KeyUnusable(f"the token {token.label} has no key called {called}")
    return _key_in_token(folder, token, kind, found)


def next_key(folder: DeviceFolder, token: Token | None, kind: KeyKind) -> PrivateKey | Signer:
    """Return the key of a renewal with a new one, by rule 2."""
    for key in (folder.pending(), folder.token_key()):
        if token is None and isinstance(key, TokenKey):
            token = key.token
    if token is None:
        return folder.begin(kind)
    return _key_in_token(folder, token, kind, None)


def _key_in_token(folder: DeviceFolder, token: Token, kind: KeyKind, found: TokenKey | None) -> Signer:
    # A PIN that is wrong and a kind that is not made are told before anything is begun.
    _tokens().check_token(token, kind)
    return _tokens().make_key(folder.begin_in_token(token, label_of(folder), found), kind)


def reach_by(folder: DeviceFolder, token: Token, *, rekeys: bool) -> None:
    """Reach the device's key as this token says from now on, if it is in that; raise `FolderUnusable`, `KeyUnusable`.

    Args:
        rekeys: A new key is going to be made there, wherever the present one is.
    """
    key = folder.token_key()
    if key is not None and key.token.label == token.label:
        if key.token != token:
            _tokens().check_key(replace(key, token=token))
            folder.reach_by(token)
    elif not rekeys:
        place = "a file" if key is None else f"the token {key.token.label}"
        raise FolderUnusable(f"The device's key is in {place}: only --rekey makes one in the token {token.label}.")


def destroy_spent(folder: DeviceFolder) -> None:
    """Destroy what is to be destroyed by rule 3, as far as its token can be reached."""
    present = folder.token_key()
    for key in folder.spent():
        # The way to the token may have changed since: an old one would be an old PIN.
        if present is not None and present.token.label == key.token.label:
            key = replace(key, token=present.token)  # noqa: PLW2901 - the same key
        try:
            _tokens().destroy_key(key)
        except (KeyUnusable, FolderUnusable):
            continue
        folder.forget_spent(key)


def check_usable(folder: DeviceFolder) -> None:
    """Log in to the device's token, if its key is in one; raise `KeyUnusable` if the key cannot be used."""
    key = folder.token_key()
    if key is not None:
        _tokens().check_key(key)


def label_of(folder: DeviceFolder) -> str:
    """Return what a device's keys are called in a token."""
    return f"{OURS}{folder.identifier()}"


def _tokens() -> _Tokens:
    try:
        from est.client import token
    except ImportError as error:
        raise _missing(error) from error
    return token


def _missing(error: ImportError) -> KeyUnusable:
    return KeyUnusable(f"install doorward[pkcs11] to use a key in a token: {error}")
