"""What nats-server is told that a connection may do: an access control list as NATS permissions.

1. nats-server reads a list that is absent or empty as "everything". So all four lists are always sent, and where
   nothing is allowed everything is denied.
2. Nobody touches what the broker keeps for itself in the account: `$JS.`, `$KV.`, `$MQTT.`, `$O.`, `$SYS.`. One
   exception: an MQTT connection is not denied to subscribe below `$MQTT.`, because the broker itself subscribes there
   in its name for QoS 1 and 2; the broker refuses such filters from an MQTT client by its own rule.
3. A filter that ends in `#` is granted and denied as both of its subjects, `a.>` and `a`.
4. Request and reply, for NATS clients: the inbox of an identity is `_INBOX.<identity id>.<tenant name>.>`. It alone
   reads it. Those of its tenant, and of `system`, may write to it: so answering needs no permission to publish wherever
   a requester's reply subject says, by which one tenant could make another's client speak in its own topics.
   Who may subscribe so widely that inboxes of others would be among it (`#` in `system`) reads no inbox at all.
5. An identity without any topic has no inbox either.
6. nats-server lets a client that may subscribe to `a.*` subscribe to `a.>` as well, since its `*` matches any token and
   `>` is one. So whatever is deeper than a filter that ends in `+` is denied beside it. Where something deeper is
   allowed too, denying would take that away: then the filter that ends in `+` is left out.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson

from callout.claims import ConnectionType
from callout.subjects import filter_subjects
from iam.access import Access
from iam.model import SYSTEM_TENANT
from iam.topics import AccessControlList, access_control_list, overlaps

EVERYTHING = ">"
_log = logging.getLogger(__name__)
BROKERS_OWN = ("$JS.>", "$KV.>", "$MQTT.>", "$O.>", "$SYS.>")
ALL_INBOXES = "_INBOX.>"
_INBOX_LEVEL = "_INBOX"
_MQTT_DELIVERY = "$MQTT/sub/+"
"""Where the broker delivers messages of QoS 1 and 2 to an MQTT connection."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects to publish on and to subscribe to; where an allow list is empty, its deny list is everything."""

    publish_allow: tuple[str, ...]
    publish_deny: tuple[str, ...]
    subscribe_allow: tuple[str, ...]
    subscribe_deny: tuple[str, ...]

    @property
    def encoded(self) -> bytes:
        """The members `pub` and `sub` of a user's claims, as a JSON object."""
        return orjson.dumps(
            {
                "pub": {"allow": self.publish_allow, "deny": self.publish_deny},
                "sub": {"allow": self.subscribe_allow, "deny": self.subscribe_deny},
            }
        )


def permissions(acl: AccessControlList, access: Access, connection: ConnectionType) -> Permissions:
    """Return the permissions of a connection of this type, of this identity (rules 1 to 5)."""
    publish, publish_deny = _subjects(acl.publish_allow), [*BROKERS_OWN, *_subjects(acl.publish_deny)]
    is_mqtt = connection is ConnectionType.MQTT
    subscribe_filters, deeper = _without_deeper(
        acl.subscribe_allow, _MQTT_DELIVERY if is_mqtt else _inbox_filter(access)
    )
    subscribe = _subjects(subscribe_filters)
    subscribe_deny = [*BROKERS_OWN, *_subjects(acl.subscribe_deny), *deeper]
    if is_mqtt:
        subscribe_deny.remove("$MQTT.>")
        subscribe_deny.append(ALL_INBOXES)
    else:
        if publish or subscribe:
            publish.append(_answerable_inboxes(access))
        if any(_reaches_inboxes(each) for each in subscribe_filters):
            subscribe_deny.append(ALL_INBOXES)
        elif publish or subscribe:
            subscribe.append(inbox(access))
    return Permissions(*_never_empty(publish, publish_deny), *_never_empty(subscribe, subscribe_deny))


def inbox(access: Access) -> str:
    """Return the subject below which this identity receives answers."""
    return f"{_INBOX_LEVEL}.{access.identity.id}.{access.tenant.name}.>"


class Prepared:
    """All that answering for an Access needs, worked out once.

    Attributes:
        access: What it was worked out from.
        acl_digest: The digest of the access control list.
    """

    def __init__(self, access: Access) -> None:
        self.access = access
        self._acl = access_control_list(access)
        if self._acl.refused is not None:
            _log.warning("nothing is allowed: %s", self._acl.refused)
        self.acl_digest = self._acl.digest
        self._encoded: dict[ConnectionType, bytes] = {}

    def encoded(self, connection: ConnectionType) -> bytes:
        """Return `Permissions.encoded` for a type of connection."""
        if connection not in self._encoded:
            self._encoded[connection] = permissions(self._acl, self.access, connection).encoded
        return self._encoded[connection]


class PreparedPermissions:
    """Permissions of the Accesses seen last. An Access is frozen: while it is the same object, so are they."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._held: OrderedDict[str, Prepared] = OrderedDict()

    def of(self, access: Access) -> Prepared:
        """Return what `access` comes to."""
        held = self._held.get(access.identity.id)
        if held is not None and held.access is access:
            return held
        prepared = Prepared(access)
        self._held[access.identity.id] = prepared
        self._held.move_to_end(access.identity.id)
        if len(self._held) > self._capacity:
            self._held.popitem(last=False)
        return prepared


def _subjects(filters: Iterable[str]) -> list[str]:
    return [subject for each in filters for subject in filter_subjects(each)]


def _without_deeper(filters: Sequence[str], needed: str) -> tuple[list[str], list[str]]:
    """Return the filters that can be granted beside `needed`, and the subjects to deny with them (rule 6)."""
    granted, denied = [], []
    for each in filters:
        if each.rpartition("/")[2] == "+":
            # `a.*.>` is one level more or several: in MQTT, `a/+/+/#`.
            if any(overlaps(f"{each}/+/#", other) for other in (*filters, needed)):
                continue
            denied.append(f"{filter_subjects(each)[0]}.>")
        granted.append(each)
    return granted, denied


def _inbox_filter(access: Access) -> str:
    return f"{_INBOX_LEVEL}/{access.identity.id}/{access.tenant.name}/#"


def _never_empty(allow: list[str], deny: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return (tuple(allow), tuple(deny)) if allow else ((), (EVERYTHING,))


def _answerable_inboxes(access: Access) -> str:
    if access.tenant.name == SYSTEM_TENANT:
        return ALL_INBOXES
    return f"{_INBOX_LEVEL}.*.{access.tenant.name}.>"


def _reaches_inboxes(topic_filter: str) -> bool:
    """Tell whether a filter could match somebody's inbox, whose second level is an identity's id."""
    first, _, rest = topic_filter.partition("/")
    second = rest.partition("/")[0]
    return first == "#" or (first in ("+", _INBOX_LEVEL) and (second in ("+", "#") or second.startswith("idt-")))
