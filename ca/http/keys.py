"""Keys over REST, in the paths and the JSON of Lamassu's KMS.

There is no route that gives out a private half, and none that could: `ca.kms` has no method for it.
"""

import base64

from ca.http.key_shapes import (
    ImportedKey,
    NewKey,
    NewName,
    NewTags,
    Patches,
    ShownDeletion,
    ShownKey,
    ShownSignature,
    ShownStatistics,
    ShownValidation,
    ToSign,
    ToVerify,
    decoded,
    pem,
    show_engine,
    show_key,
)
from ca.kms import KeyService
from iam.guard import Answer, Call, Needs, Route
from iam.listing import FilterQuery, Listed, ListQuery
from iam.permissions import Action, Resource

_TAG = "Keys"
_KMS = "/api/kms/v1"
_KEYS = _KMS + "/keys"
_KEY = _KEYS + "/{key}"


def routes(service: KeyService) -> list[Route]:  # noqa: C901 - one small handler for each route
    """Return the routes of keys."""

    async def list_engines(_: Call) -> Answer:
        return Answer(content=[show_engine(one).model_dump() for one in service.engines])

    async def statistics(call: Call) -> Answer:
        found = await service.statistics(call.tenant.id, call.query)
        shown = ShownStatistics(
            total_keys=sum(found.by_engine.values()),
            keys_distribution_per_engine=dict(found.by_engine),
            keys_distribution_per_algorithm=dict(found.by_algorithm),
        )
        return Answer(content=shown)

    async def list_keys(call: Call) -> Answer:
        page = await service.page(call.tenant.id, call.query)
        return Answer(content=Listed[ShownKey](next=page.next, items=[show_key(one) for one in page.items]))

    async def create(call: Call) -> Answer:
        body: NewKey = call.body
        kind, said = body.kind, body.description
        made = await service.create(call.tenant.id, kind, body.size, body.engine_id, said, actor=_actor(call))
        return Answer(201, show_key(made))

    async def take_in(call: Call) -> Answer:
        body: ImportedKey = call.body
        content = decoded("private_key", body.private_key)
        taken = await service.take_in(call.tenant.id, content, body.description, actor=_actor(call))
        return Answer(201, show_key(taken))

    async def get(call: Call) -> Answer:
        return Answer(content=show_key(await service.key(call.tenant.id, call.path["key"])))

    async def get_public_key(call: Call) -> Answer:
        found = await service.key(call.tenant.id, call.path["key"])
        return Answer(content=pem(found), headers={"Content-Type": "application/x-pem-file"})

    async def rename(call: Call) -> Answer:
        body: NewName = call.body
        renamed = await service.rename(call.tenant.id, call.path["key"], body.name, actor=_actor(call))
        return Answer(content=show_key(renamed))

    async def retag(call: Call) -> Answer:
        body: NewTags = call.body
        return Answer(
            content=show_key(await service.retag(call.tenant.id, call.path["key"], body.tags, actor=_actor(call)))
        )

    async def patch_metadata(call: Call) -> Answer:
        patch = call.body.operations
        patched = await service.patch_metadata(call.tenant.id, call.path["key"], patch, actor=_actor(call))
        return Answer(content=show_key(patched))

    async def patch_aliases(call: Call) -> Answer:
        patch = call.body.operations
        patched = await service.patch_aliases(call.tenant.id, call.path["key"], patch, actor=_actor(call))
        return Answer(content=show_key(patched))

    async def delete(call: Call) -> Answer:
        await service.delete(call.tenant.id, call.path["key"], actor=_actor(call))
        return Answer(content=ShownDeletion(status="deleted"))

    async def sign(call: Call) -> Answer:
        body: ToSign = call.body
        signature = await service.sign(
            call.tenant.id, call.path["key"], body.algorithm, body.content, actor=_actor(call)
        )
        return Answer(content=ShownSignature(signature=base64.b64encode(signature).decode()))

    async def verify(call: Call) -> Answer:
        body: ToVerify = call.body
        signature = decoded("signature", body.signature)
        valid = await service.verify(call.tenant.id, call.path["key"], body.algorithm, body.content, signature)
        return Answer(content=ShownValidation(valid=valid))

    keys = Resource.KMS_KEYS
    may_create, may_read = Needs(Action.CREATE, keys), Needs(Action.READ, keys)
    may_update, may_delete = Needs(Action.UPDATE, keys), Needs(Action.DELETE, keys)
    return [
        Route("GET", _KMS + "/engines", list_engines, may_read, "List where keys are made and kept", _TAG),
        Route(
            "GET",
            _KMS + "/stats",
            statistics,
            may_read,
            "Count keys by engine and algorithm",
            _TAG,
            query=FilterQuery,
            answers=ShownStatistics,
        ),
        Route("GET", _KEYS, list_keys, may_read, "List keys", _TAG, query=ListQuery, answers=Listed[ShownKey]),
        Route("POST", _KEYS, create, may_create, "Make a key", _TAG, body=NewKey, answers=ShownKey, status=201),
        Route(
            "POST",
            _KEYS + "/import",
            take_in,
            may_create,
            "Take in a key that was made elsewhere",
            _TAG,
            body=ImportedKey,
            answers=ShownKey,
            status=201,
        ),
        Route("GET", _KEY, get, may_read, "Get a key by its id or an alias", _TAG, answers=ShownKey),
        Route(
            "GET",
            _KEY + "/public-key",
            get_public_key,
            may_read,
            "Get the public half of a key as PEM",
            _TAG,
            answers="application/x-pem-file",
        ),
        Route("PUT", _KEY + "/name", rename, may_update, "Rename a key", _TAG, body=NewName, answers=ShownKey),
        Route("PUT", _KEY + "/tags", retag, may_update, "Set the tags of a key", _TAG, body=NewTags, answers=ShownKey),
        Route(
            "PUT",
            _KEY + "/alias",
            patch_aliases,
            may_update,
            "Change the list of a key's aliases by a JSON Patch",
            _TAG,
            body=Patches,
            answers=ShownKey,
        ),
        Route(
            "PUT",
            _KEY + "/metadata",
            patch_metadata,
            may_update,
            "Change the metadata of a key by a JSON Patch",
            _TAG,
            body=Patches,
            answers=ShownKey,
        ),
        Route("DELETE", _KEY, delete, may_delete, "Delete a key that nothing uses", _TAG, answers=ShownDeletion),
        Route(
            "POST",
            _KEY + "/sign",
            sign,
            may_update,
            "Sign a message or digest; not with the key of an authority",
            _TAG,
            body=ToSign,
            answers=ShownSignature,
        ),
        Route(
            "POST",
            _KEY + "/verify",
            verify,
            may_read,
            "Verify a signature",
            _TAG,
            body=ToVerify,
            answers=ShownValidation,
        ),
    ]


def _actor(call: Call) -> str:
    return call.caller.access.identity.id
