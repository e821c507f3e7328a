"""Decryption keys over REST, for operators: what keys that are made here are encrypted under (RFC 7030 4.4.1)."""

from datetime import datetime

from pydantic import Field

from certs.cms import check_recipient
from certs.key_protection import KEY_IDENTIFIER_MAXIMUM_BYTES
from certs.names import device_identifier
from certs.pem import read_certificates, write_certificates
from est.decryption_keys import DecryptionKey, DecryptionKeys, ShownKey
from est.http.dms import DMS_TAG, ONE_DMS, named_label
from est.store.decryption_keys import KeyHolder
from iam.errors import malformed
from iam.guard import Call, Needs, Route
from iam.permissions import Action, Resource
from iam.responses import Answer
from iam.schema import SnakeModel, SnakeShown

_OF_LABEL = ONE_DMS + "/decryption-keys"
_OF_DEVICE = "/api/dmsmanager/v1/devices/{deviceIdentifier}/decryption-keys"
_ONE = "/{keyIdentifier}"


class DecryptionKeyBody(SnakeModel):
    """Either a secret that the device has too, or a certificate whose key it has."""

    secret: str | None = Field(
        None,
        pattern="^([0-9a-f]{32}|[0-9a-f]{48}|[0-9a-f]{64})$",
        description="An AES key of 128, 192 or 256 bits, in hexadecimal. It is never shown again.",
    )
    certificate: str | None = Field(
        None, max_length=32 * 1024, description="In PEM; its key usage, if it has one, allows to encrypt keys to it."
    )

    @property
    def key(self) -> DecryptionKey:
        """The same, checked; raises `Refused` (malformed), or `CertificateRefused`."""
        if (self.secret is None) == (self.certificate is None):
            raise malformed("Give either a secret or a certificate.")
        if self.certificate is None:
            return DecryptionKey(secret=bytes.fromhex(self.secret or ""))
        certificates = read_certificates(self.certificate.encode())
        if len(certificates) != 1:
            raise malformed("Give one certificate.")
        check_recipient(certificates[0])
        return DecryptionKey(certificate=certificates[0])


class ShownDecryptionKey(SnakeShown):
    """A decryption key; of a secret, only that it is there."""

    key_identifier: str
    certificate: str | None
    creation_ts: datetime


class ShownDecryptionKeys(SnakeShown):
    """All decryption keys of one holder."""

    list: list[ShownDecryptionKey]


def routes(keys: DecryptionKeys) -> list[Route]:
    """Return the routes of decryption keys: the same for a label and for a device."""

    async def put(call: Call) -> Answer:
        body: DecryptionKeyBody = call.body
        holder = _holder(call, Action.UPDATE)
        await keys.put(call.caller.access, call.tenant, holder, _identifier(call), body.key)
        return Answer(204)

    async def list_keys(call: Call) -> Answer:
        found = await keys.list(call.tenant, _holder(call, Action.READ))
        return Answer(content=ShownDecryptionKeys(list=[_show(one) for one in found]))

    async def delete(call: Call) -> Answer:
        await keys.delete(call.caller.access, call.tenant, _holder(call, Action.UPDATE), _identifier(call))
        return Answer(204)

    read, update = Needs(Action.READ, Resource.EST_PROFILES), Needs(Action.UPDATE, Resource.EST_PROFILES)
    made = []
    for path, whose in ((_OF_LABEL, "a label"), (_OF_DEVICE, "a device")):
        one = f"{path}{_ONE}"
        made += [
            Route(
                "GET",
                path,
                list_keys,
                read,
                f"List the decryption keys of {whose}",
                DMS_TAG,
                answers=ShownDecryptionKeys,
            ),
            Route(
                "PUT",
                one,
                put,
                update,
                f"Register a decryption key for {whose}",
                DMS_TAG,
                body=DecryptionKeyBody,
                status=204,
            ),
            Route("DELETE", one, delete, update, f"Forget a decryption key of {whose}", DMS_TAG, status=204),
        ]
    return made


def _holder(call: Call, action: Action) -> KeyHolder:
    if "deviceIdentifier" not in call.path:
        return KeyHolder(label=named_label(call))
    identifier = device_identifier(call.path["deviceIdentifier"])
    call.require_device(action, Resource.EST_PROFILES, identifier)
    return KeyHolder(device=identifier)


def _identifier(call: Call) -> bytes:
    text = call.path["keyIdentifier"]
    digits = text.lower()
    if not digits or len(digits) % 2 or set(digits) - set("0123456789abcdef"):
        raise malformed("A key identifier is written in hexadecimal.")
    if len(digits) > 2 * KEY_IDENTIFIER_MAXIMUM_BYTES:
        raise malformed(f"A key identifier has at most {KEY_IDENTIFIER_MAXIMUM_BYTES} bytes.")
    return bytes.fromhex(digits)


def _show(one: ShownKey) -> ShownDecryptionKey:
    return ShownDecryptionKey(
        key_identifier=one.identifier.hex(),
        certificate=None if one.certificate is None else write_certificates([one.certificate]).decode(),
        creation_ts=one.created,
    )
