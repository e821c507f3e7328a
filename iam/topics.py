"""Topics: what a rule may say, what the rules of an Access come to, and the answer to "may it use this topic?".

A rule's topic is an MQTT 3.1.1 filter (4.7) with variables; an access control list holds filters without any.

1. A variable (`${tenant} ${identity} ${device} ${name}`) is a whole level. `+` is a whole level, `#` the last one.
2. A level holds no control character, no space and none of `* > $ { }`: NATS gives some of them a meaning, and none of
   them a good one. So no topic begins with `$`, where brokers keep what is their own.
3. All tenants share one broker account. What a role allows begins with `${tenant}`, except in `system`. The same is
   held again when the rules are expanded, whatever the store may have given us.
4. Each grant expands within its own devices: `${device}` gives one filter for each, and `+` where it reaches all. `+`
   stays within the tenant by rule 3.
5. A value enters a topic only if it is of its own grammar and can be a level. What a rule would allow with one that is
   not, it does not allow; what a rule would deny, it denies for every value of that level.
6. Deny wins, over all grants. Nothing allowed means nothing allowed.
7. A list has at most `LONGEST_LIST` filters; where it would have more, nothing is allowed. Whoever reaches so many
   devices is given `*`, or a topic on all of them.
8. To publish, a topic is allowed if an allow filter matches it and no deny filter does. To subscribe, a filter is
   allowed if one allow filter covers all of it and no deny filter has any topic in common with it: what would deliver
   even one denied topic is refused whole. (nats-server is milder to the subscriber and as strict about the messages:
   it takes a filter that a deny filter overlaps in part, and holds back what is denied; `callout.permissions`.)
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from certs.errors import CertificateRefused
from certs.names import device_identifier
from iam.access import ALLOWED, Access, Decision, Denied, Grant
from iam.errors import Refused, malformed
from iam.identifiers import checked_identity_id, identity_name, tenant_name
from iam.model import SYSTEM_TENANT, Effect, Tenant, TopicAction, TopicRule

LONGEST_LIST = 4096
LONGEST_TOPIC = 512
"""Bytes of UTF-8 that a rule's topic may have."""

TENANT, IDENTITY, DEVICE, NAME = "${tenant}", "${identity}", "${device}", "${name}"
_VARIABLES = frozenset({TENANT, IDENTITY, DEVICE, NAME})

_ONE, _REST = "+", "#"
_WILDCARDS = frozenset({_ONE, _REST})
_UNFIT = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff+#*>$/{}]")


@dataclass(frozen=True, slots=True)
class AccessControlList:
    """What one identity may publish and subscribe to: MQTT filters, sorted, none covered by another of its list."""

    publish_allow: tuple[str, ...] = ()
    publish_deny: tuple[str, ...] = ()
    subscribe_allow: tuple[str, ...] = ()
    subscribe_deny: tuple[str, ...] = ()
    refused: str | None = None
    """Why nothing is allowed, where the list would have been too long (rule 7)."""

    @property
    def digest(self) -> str:
        """A short name of the content: equal lists have equal digests, in every process and version."""
        content = hashlib.sha256()
        for filters in (self.publish_allow, self.publish_deny, self.subscribe_allow, self.subscribe_deny):
            content.update("\n".join(filters).encode() + b"\0")
        return content.hexdigest()[:16]

    def decide(self, action: TopicAction, topic: str) -> Decision:
        """Answer whether this list allows `action` on a topic to publish to, or on a filter to subscribe to (rule 8).

        `ALL` asks for both. What is not a topic, or not a filter, is denied.
        """
        if action is TopicAction.ALL:
            published = self.decide(TopicAction.PUBLISH, topic)
            return published if isinstance(published, Denied) else self.decide(TopicAction.SUBSCRIBE, topic)
        if self.refused is not None:
            return Denied(self.refused)
        publishes = action is TopicAction.PUBLISH
        if fault := _fault(topic, variables=frozenset(), wildcards=frozenset() if publishes else _WILDCARDS):
            return Denied(f"not a topic to {action}: {fault}")
        allow = self.publish_allow if publishes else self.subscribe_allow
        deny = self.publish_deny if publishes else self.subscribe_deny
        for each in deny:
            if overlaps(each, topic):
                return Denied(f"{action} on {topic} is denied by {each}")
        if any(covers(each, topic) for each in allow):
            return ALLOWED
        return Denied(f"no rule allows {action} on {topic}")


def checked_rule(effect: str, action: str, topic: str, *, tenant_is_system: bool) -> TopicRule:
    """Return the rule if it keeps rules 1 to 3; raise `Refused` (malformed) with a sentence otherwise."""
    try:
        rule = TopicRule(Effect(effect), TopicAction(action), topic)
    except ValueError as error:
        raise malformed(
            "A topic rule has the effect allow or deny, and the action publish, subscribe or all."
        ) from error
    if fault := _fault(topic, variables=_VARIABLES, wildcards=_WILDCARDS):
        raise malformed(f"This is not a topic: {fault}.", topic=fault)
    if rule.effect is Effect.ALLOW and not tenant_is_system and topic.split("/", maxsplit=1)[0] != TENANT:
        raise malformed(
            "A topic that a role allows begins with the level '${tenant}', so that it stays within the tenant.",
            topic="must begin with '${tenant}'",
        )
    return rule


def access_control_list(access: Access) -> AccessControlList:
    """Return what the topic rules of all grants come to (rules 3 to 6)."""
    if (count := _expected_length(access)) > LONGEST_LIST:
        return AccessControlList(
            refused=f"the topics of {access.identity.id} come to {count} filters, at most {LONGEST_LIST} are made"
        )
    found: dict[tuple[Effect, TopicAction], set[str]] = {}
    for grant in access.grants:
        levels = {effect: _Levels(access, grant, denies=effect is Effect.DENY) for effect in Effect}
        for rule in grant.topics:
            filters = list(levels[rule.effect].filters(rule.topic))
            for action in (TopicAction.PUBLISH, TopicAction.SUBSCRIBE):
                if rule.action in (action, TopicAction.ALL):
                    found.setdefault((rule.effect, action), set()).update(filters)
    return AccessControlList(
        publish_allow=_minimal(found.get((Effect.ALLOW, TopicAction.PUBLISH), ())),
        publish_deny=_minimal(found.get((Effect.DENY, TopicAction.PUBLISH), ())),
        subscribe_allow=_minimal(found.get((Effect.ALLOW, TopicAction.SUBSCRIBE), ())),
        subscribe_deny=_minimal(found.get((Effect.DENY, TopicAction.SUBSCRIBE), ())),
    )


def _expected_length(access: Access) -> int:
    """Return about how many filters the rules of all grants come to, without making any."""
    total = 0
    for grant in access.grants:
        for rule in grant.topics:
            by_device = DEVICE in rule.topic.split("/") and not grant.devices.everything
            total += len(grant.devices.names) if by_device else 1
    return total


def covers(topic_filter: str, other: str) -> bool:
    """Tell whether every topic that `other` matches is matched by `topic_filter` (MQTT 3.1.1 4.7.1).

    A topic is a filter that matches itself alone; `a/#` covers `a` too.
    """
    mine, others = topic_filter.split("/"), other.split("/")
    for index, level in enumerate(mine):
        if level == _REST:
            return True
        if index >= len(others) or others[index] == _REST or level not in (_ONE, others[index]):
            return False
    return len(mine) == len(others)


def overlaps(one: str, other: str) -> bool:
    """Tell whether there is a topic that both filters match."""
    first, second = one.split("/"), other.split("/")
    for mine, theirs in zip(first, second, strict=False):
        if _REST in (mine, theirs):
            return True
        if mine != theirs and _ONE not in (mine, theirs):
            return False
    longer = max(first, second, key=len)
    shorter = min(len(first), len(second))
    return longer[shorter:] in ([], [_REST])


def _fault(topic: str, *, variables: frozenset[str], wildcards: frozenset[str]) -> str | None:
    """Return what is wrong with a topic, as the end of a sentence, or nothing."""
    if not topic:
        return "it is empty"
    if len(topic.encode(errors="surrogatepass")) > LONGEST_TOPIC:
        return f"it has more than {LONGEST_TOPIC} bytes"
    levels = topic.split("/")
    for position, level in enumerate(levels, start=1):
        if level in variables:
            continue
        if level == _REST and level in wildcards and position < len(levels):
            return "'#' stands only at the end"
        if level not in wildcards and _UNFIT.search(level):
            return (
                f"level {position} holds what no level may: a space, a control character or one of '* > $ {{ }}', "
                "a variable that is not a whole level or not known, or a wildcard that is not a whole level or not "
                "allowed here"
            )
    return None


@lru_cache(maxsize=4096)
def _template(topic: str) -> tuple[str, ...] | None:
    """Return the levels of a rule's topic, or nothing if it is not one. Roles share their rules, so this is kept."""
    return None if _fault(topic, variables=_VARIABLES, wildcards=_WILDCARDS) else tuple(topic.split("/"))


class _Levels:
    """What the variables stand for in one grant, as levels; none if a value cannot be one."""

    def __init__(self, access: Access, grant: Grant, *, denies: bool) -> None:
        self._values = {
            TENANT: _level(access.tenant.name, tenant_name, denies=denies),
            IDENTITY: _level(access.identity.id, checked_identity_id, denies=denies),
            NAME: _level(access.identity.name, identity_name, denies=denies),
        }
        self._devices = (
            {_ONE}
            if grant.devices.everything
            else {_level(each, device_identifier, denies=denies) for each in grant.devices.names}
        ) - {None}
        self._tenant = access.tenant
        self._denies = denies

    def filters(self, topic: str) -> Iterator[str]:
        """Give the concrete filters that a rule's topic comes to."""
        template = _template(topic)
        if template is None:
            return
        levels = [self._values.get(level, level) for level in template]
        within = self._denies or _stays_within(self._tenant, levels[0])
        if not within or None in levels:
            return
        pattern = "/".join(level for level in levels if level is not None)
        if DEVICE not in template:
            yield pattern
            return
        for device in self._devices:
            yield pattern.replace(DEVICE, str(device))


def _level(value: str, grammar: Callable[[str], str], *, denies: bool) -> str | None:
    """Return a value as a level; one that cannot be a level is `+` to deny and nothing to allow (rule 5)."""
    try:
        fits = _UNFIT.search(grammar(value)) is None
    except (Refused, CertificateRefused):
        fits = False
    if fits:
        return value
    return _ONE if denies else None


def _stays_within(tenant: Tenant, first_level: str | None) -> bool:
    """Tell whether a filter that begins so may be allowed in this tenant (rule 3)."""
    return first_level == tenant.name or (tenant.name == SYSTEM_TENANT and tenant.parent is None)


def _minimal(filters: Iterable[str]) -> tuple[str, ...]:
    """Return the filters sorted, without those that another one covers.

    Only a filter with a wildcard covers another. Each such shape (where its wildcards stand) is laid over each filter,
    and it is asked whether what comes out is there: many filters come of few rules, and so have few shapes.
    """
    unique = {each: each.split("/") for each in filters}
    shapes = {_shape(levels) for levels in unique.values()}
    shapes = {shape for shape in shapes if _REST in shape or _ONE in shape}
    return tuple(
        sorted(
            each
            for each, levels in unique.items()
            if not any((wider := _laid_over(shape, levels)) != each and wider in unique for shape in shapes)
        )
    )


_Shape = tuple[str, ...]


def _shape(levels: Sequence[str]) -> _Shape:
    return tuple(level if level in _WILDCARDS else "" for level in levels)


def _laid_over(shape: _Shape, levels: Sequence[str]) -> str | None:
    """Return the filter of this shape that covers `levels`, or nothing if none can."""
    rest = shape[-1] == _REST
    length = len(shape) - 1 if rest else len(shape)
    bare = len(levels) - 1 if levels[-1] == _REST else len(levels)
    if bare < length or (not rest and not bare == length == len(levels)):
        return None
    return "/".join(
        [wildcard or level for wildcard, level in zip(shape[:length], levels, strict=False)] + [_REST] * rest
    )
