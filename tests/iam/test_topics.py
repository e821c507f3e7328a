"""Topic rules: what may be said, what they come to, and what is then allowed."""

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.names import DEVICE_IDENTIFIER
from iam.access import Access, Allowed, Denied, Grant
from iam.errors import Kind, Refused
from iam.model import (
    ALL,
    NONE,
    SYSTEM_TENANT,
    Effect,
    Extent,
    Identity,
    IdentityStatus,
    IdentityType,
    Role,
    Scope,
    Tenant,
    TenantStatus,
    TopicAction,
    TopicRule,
)
from iam.topics import LONGEST_LIST, AccessControlList, access_control_list, checked_rule, covers, overlaps
from tests.callout.brokers import START

IDENTITY = "idt-0197a000-0000-7000-8000-000000000001"
PUBLISH, SUBSCRIBE = TopicAction.PUBLISH, TopicAction.SUBSCRIBE

LEVEL = st.sampled_from(["a", "b", "c", ""])
TOPIC = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(bool)
FILTER = st.builds(
    lambda levels, rest: "/".join([*levels, *rest]),
    st.lists(LEVEL | st.just("+"), min_size=0, max_size=4),
    st.sampled_from([[], ["#"]]),
).filter(bool)


def rule(effect: str, action: str, topic: str) -> TopicRule:
    return TopicRule(Effect(effect), TopicAction(action), topic)


def grant(*rules: TopicRule, devices: Extent = NONE) -> Grant:
    return Grant(Role(uuid4(), UUID(int=1), "role", (), rules, Scope(), START), devices, NONE)


def only(*names: str) -> Extent:
    return Extent(names=frozenset(names))


def access(*grants: Grant, tenant: str = "acme", name: str = "jo", identity: str = IDENTITY) -> Access:
    parent = None if tenant == SYSTEM_TENANT else UUID(int=2)
    where = Tenant(UUID(int=1), tenant, parent, (UUID(int=1),), TenantStatus.ACTIVE, Scope(), START)
    who = Identity(identity, IdentityType.USER, where.id, name, IdentityStatus.ACTIVE, Scope(), None, START)
    return Access(where, who, grants)


def acl(*rules: TopicRule, devices: Extent = NONE, tenant: str = "acme", name: str = "jo") -> AccessControlList:
    return access_control_list(access(grant(*rules, devices=devices), tenant=tenant, name=name))


class TestGrammar:
    @pytest.mark.parametrize(
        "topic",
        [
            "${tenant}",
            "${tenant}/#",
            "${tenant}/+/${device}/x",
            "${tenant}/${identity}/${name}",
            "${tenant}//x",
            "${tenant}/a.b",
        ],
    )
    def test_what_a_rule_may_say(self, topic: str) -> None:
        assert checked_rule("allow", "all", topic, tenant_is_system=False) == rule("allow", "all", topic)

    @pytest.mark.parametrize(
        "topic",
        [
            "",
            "${tenant}/a b",
            "${tenant}/a\tb",
            "${tenant}/a\nb",
            "${tenant}/a\x00",
            "${tenant}/\x7f",
            "${tenant}/\u2028",
            "${tenant}/*",
            "${tenant}/>",
            "${tenant}/a*",
            "${tenant}/a+",
            "${tenant}/+a",
            "${tenant}/a#",
            "${tenant}/#/a",
            "${tenant}/x${device}",
            "${tenant}/${device}x",
            "${tenant}/${unknown}",
            "${tenant}/${tenant",
            "${tenant}/$SYS",
            "${tenant}x",
            "$SYS/#",
            "$MQTT/sub",
            "${tenant}/" + "x" * 512,
            "${tenant}/\ud800",
        ],
    )
    @pytest.mark.parametrize("effect", ["allow", "deny"])
    def test_what_it_may_not(self, effect: str, topic: str) -> None:
        for tenant_is_system in (False, True):
            with pytest.raises(Refused) as refusal:
                checked_rule(effect, "all", topic, tenant_is_system=tenant_is_system)
            assert refusal.value.kind is Kind.MALFORMED

    @pytest.mark.parametrize(("effect", "action"), [("grant", "all"), ("allow", "read"), ("", "")])
    def test_unknown_effects_and_actions(self, effect: str, action: str) -> None:
        with pytest.raises(Refused):
            checked_rule(effect, action, "${tenant}", tenant_is_system=False)

    @pytest.mark.parametrize("topic", ["#", "+/x", "acme/x", "/${tenant}", "${identity}/x", "${device}"])
    def test_an_allow_outside_the_tenant_is_for_system_alone(self, topic: str) -> None:
        with pytest.raises(Refused, match="within the tenant"):
            checked_rule("allow", "publish", topic, tenant_is_system=False)
        assert checked_rule("allow", "publish", topic, tenant_is_system=True).topic == topic
        assert checked_rule("deny", "publish", topic, tenant_is_system=False).topic == topic


class TestExpansion:
    def test_variables(self) -> None:
        made = acl(rule("allow", "publish", "${tenant}/${identity}/${name}/${device}"), devices=only("m2", "m1"))
        assert made.publish_allow == (f"acme/{IDENTITY}/jo/m1", f"acme/{IDENTITY}/jo/m2")
        assert made.subscribe_allow == ()

    def test_a_rule_on_devices_gives_nothing_without_devices(self) -> None:
        assert acl(rule("allow", "all", "${tenant}/${device}/#")) == AccessControlList()

    def test_all_devices_are_a_plus(self) -> None:
        assert acl(rule("allow", "subscribe", "${tenant}/${device}/x"), devices=ALL).subscribe_allow == ("acme/+/x",)

    def test_each_grant_reaches_its_own_devices(self) -> None:
        made = access_control_list(
            access(
                grant(rule("allow", "publish", "${tenant}/${device}/down"), devices=only("m1")),
                grant(rule("allow", "subscribe", "${tenant}/${device}/up"), devices=only("m2")),
            )
        )
        assert (made.publish_allow, made.subscribe_allow) == (("acme/m1/down",), ("acme/m2/up",))

    def test_deny_of_one_grant_wins_over_another(self) -> None:
        made = access_control_list(
            access(grant(rule("allow", "all", "${tenant}/#")), grant(rule("deny", "all", "${tenant}/x")))
        )
        assert isinstance(made.decide(PUBLISH, "acme/x"), Denied)
        assert isinstance(made.decide(PUBLISH, "acme/y"), Allowed)

    @pytest.mark.parametrize("topic", ["#", "+/x", "globex/x", "${identity}/x", "${device}/x"])
    def test_what_the_store_holds_against_the_rules_is_dropped(self, topic: str) -> None:
        assert acl(rule("allow", "all", topic), devices=only("m1")) == AccessControlList()
        assert acl(rule("allow", "all", topic), devices=only("m1"), tenant=SYSTEM_TENANT).publish_allow

    @pytest.mark.parametrize(
        "topic", ["${tenant}/a b", "${tenant}/#/x", "${tenant}/>", "$SYS/#", "${tenant}/x${device}"]
    )
    def test_so_is_what_is_no_topic(self, topic: str) -> None:
        for tenant in ("acme", SYSTEM_TENANT):
            assert acl(rule("allow", "all", topic), devices=only("m1"), tenant=tenant) == AccessControlList()

    def test_a_tenant_that_is_called_system_and_is_not_the_root(self) -> None:
        impostor = access(grant(rule("allow", "all", "#")), tenant=SYSTEM_TENANT)
        below = Tenant(UUID(int=1), SYSTEM_TENANT, UUID(int=2), (), TenantStatus.ACTIVE, Scope(), START)
        assert access_control_list(Access(below, impostor.identity, impostor.grants)) == AccessControlList()

    @pytest.mark.parametrize("value", ["a+b", "+", "#", "a/b", "", "a b", "$SYS", "x\n"])
    def test_a_value_that_is_no_level(self, value: str) -> None:
        """What it would allow is not allowed; what it would deny is denied to every value."""
        template = "${tenant}/u/${name}/x"
        made = acl(rule("allow", "all", template), rule("deny", "all", template), name=value)
        assert (made.publish_allow, made.publish_deny) == ((), ("acme/u/+/x",))
        device = acl(
            rule("allow", "all", "${tenant}/${device}"), rule("deny", "all", "${tenant}/${device}"), devices=only(value)
        )
        assert (device.publish_allow, device.publish_deny) == ((), ("acme/+",))

    @pytest.mark.parametrize("tenant", ["+", "#", "a/b", "a.b", ""])
    def test_a_tenants_name_that_is_no_level(self, tenant: str) -> None:
        assert acl(rule("allow", "all", "${tenant}/x"), tenant=tenant) == AccessControlList()

    def test_what_is_covered_is_left_out(self) -> None:
        made = acl(
            *(
                rule("allow", "publish", topic)
                for topic in (
                    "${tenant}/a/#",
                    "${tenant}/a",
                    "${tenant}/a/+/b",
                    "${tenant}/b/+",
                    "${tenant}/b/${device}",
                )
            ),
            devices=only("m1"),
        )
        assert made.publish_allow == ("acme/a/#", "acme/b/+")

    @pytest.mark.parametrize(("rules", "devices"), [(1, LONGEST_LIST), (2, LONGEST_LIST // 2)])
    def test_a_list_may_be_long_and_one_more_makes_it_empty(self, rules: int, devices: int) -> None:
        templates = [rule("allow", "all", f"${{tenant}}/{number}/${{device}}/#") for number in range(rules)]
        made = acl(*templates, devices=only(*(f"meter-{number}" for number in range(devices))))
        assert len(made.publish_allow) == LONGEST_LIST
        none = acl(*templates, devices=only(*(f"meter-{number}" for number in range(devices + 1))))
        assert (none.publish_allow, none.subscribe_allow) == ((), ())
        verdict = none.decide(TopicAction.PUBLISH, "acme/0/meter-0/x")
        assert isinstance(verdict, Denied)
        assert "at most 4096" in verdict.reason

    def test_a_grant_over_all_devices_is_one_filter_however_many_there_are(self) -> None:
        assert acl(rule("allow", "all", "${tenant}/${device}/#"), devices=ALL).publish_allow == ("acme/+/#",)

    @given(st.sets(FILTER, max_size=8))
    def test_least_and_the_same(self, filters: set[str]) -> None:
        made = acl(*(rule("allow", "publish", each) for each in filters), tenant=SYSTEM_TENANT).publish_allow
        assert list(made) == sorted(set(made))
        assert all(any(covers(kept, each) for kept in made) for each in filters)
        assert not any(covers(one, other) for one in made for other in made if one != other)

    @given(
        st.from_regex(DEVICE_IDENTIFIER, fullmatch=True), st.sampled_from(["${device}/x", "x/${device}", "${device}/#"])
    )
    def test_a_device_stays_in_its_level(self, device: str, tail: str) -> None:
        made = acl(rule("allow", "publish", "${tenant}/" + tail), devices=only(device)).publish_allow
        assert made == ("acme/" + tail.replace("${device}", device),)
        assert made[0].count("/") == tail.count("/") + 1


class TestDecision:
    ACL = AccessControlList(
        publish_allow=("acme/a/#",),
        publish_deny=("acme/a/secret/#",),
        subscribe_allow=("acme/a/#", "acme/b/+"),
        subscribe_deny=("acme/a/+/secret",),
    )

    @pytest.mark.parametrize("topic", ["acme/a", "acme/a/b", "acme/a/b/c"])
    def test_publish(self, topic: str) -> None:
        assert isinstance(self.ACL.decide(PUBLISH, topic), Allowed)

    @pytest.mark.parametrize(
        "topic",
        ["", "acme", "acme/b", "acme/a/secret", "acme/a/secret/x", "acme/a/#", "acme/a/+", "acme/a/b c", "$SYS/x"],
    )
    def test_publish_denied(self, topic: str) -> None:
        assert isinstance(self.ACL.decide(PUBLISH, topic), Denied)

    @pytest.mark.parametrize("topic", ["acme/a/b", "acme/a/b/c", "acme/a/+", "acme/b/+", "acme/b/x", "acme/a/b/c/#"])
    def test_subscribe(self, topic: str) -> None:
        assert isinstance(self.ACL.decide(SUBSCRIBE, topic), Allowed)

    @pytest.mark.parametrize(
        "topic",
        ["#", "acme/#", "acme/+", "acme/b/#", "acme/b/+/+", "acme/a/#", "acme/a/x/secret", "acme/a/+/+", "acme/a/#/b"],
    )
    def test_subscribe_denied(self, topic: str) -> None:
        assert isinstance(self.ACL.decide(SUBSCRIBE, topic), Denied)

    def test_both(self) -> None:
        assert isinstance(self.ACL.decide(TopicAction.ALL, "acme/a/x"), Allowed)
        assert isinstance(self.ACL.decide(TopicAction.ALL, "acme/b/x"), Denied)
        assert isinstance(self.ACL.decide(TopicAction.ALL, "acme/a/secret"), Denied)

    def test_nothing_allowed_is_nothing_allowed(self) -> None:
        assert isinstance(AccessControlList().decide(PUBLISH, "a"), Denied)
        assert isinstance(AccessControlList().decide(SUBSCRIBE, "a"), Denied)

    def test_the_reason_names_the_rule(self) -> None:
        decision = self.ACL.decide(PUBLISH, "acme/a/secret")
        assert isinstance(decision, Denied)
        assert "acme/a/secret/#" in decision.reason


class TestFilters:
    @pytest.mark.parametrize(
        ("topic_filter", "topic", "expected"),
        [
            ("#", "a/b", True),
            ("a/#", "a", True),
            ("a/#", "a/b/c", True),
            ("a/#", "ab", False),
            ("+", "a", True),
            ("+", "a/b", False),
            ("+/+", "/a", True),
            ("/+", "/a", True),
            ("a/+", "a/", True),
            ("a/+", "a", False),
            ("a/+/c", "a/b/c", True),
        ],
    )
    def test_the_examples_of_the_standard(self, topic_filter: str, topic: str, expected: bool) -> None:
        assert covers(topic_filter, topic) is expected

    @given(FILTER, FILTER, TOPIC)
    def test_what_covers_a_filter_covers_its_topics(self, one: str, other: str, topic: str) -> None:
        if covers(one, other) and covers(other, topic):
            assert covers(one, topic)

    @given(FILTER, FILTER, TOPIC)
    def test_to_overlap_is_to_match_one_topic_both(self, one: str, other: str, topic: str) -> None:
        if covers(one, topic) and covers(other, topic):
            assert overlaps(one, other)
        assert overlaps(one, other) is overlaps(other, one)

    @given(FILTER, FILTER)
    def test_overlap_has_a_witness(self, one: str, other: str) -> None:
        """The topic that takes from each filter what it says at each level."""
        first, second = one.split("/"), other.split("/")
        if overlaps(one, other):
            levels: list[str] = []
            for mine, theirs in zip(first, second, strict=False):
                if "#" in (mine, theirs):
                    longer = first if mine != "#" else second
                    levels += ["z" if level in "+#" and level else level for level in longer[len(levels) :]]
                    break
                said = [level for level in (mine, theirs) if level != "+"]
                levels.append(said[0] if said else "z")
            witness = "/".join(levels)
            assert covers(one, witness)
            assert covers(other, witness)

    @given(FILTER, FILTER)
    def test_what_covers_overlaps(self, one: str, other: str) -> None:
        if covers(one, other):
            assert overlaps(one, other)


def test_the_digest_tells_lists_apart() -> None:
    lists = [
        AccessControlList(),
        AccessControlList(publish_allow=("a",)),
        AccessControlList(publish_deny=("a",)),
        AccessControlList(subscribe_allow=("a",)),
        AccessControlList(subscribe_deny=("a",)),
        AccessControlList(publish_allow=("a", "b")),
        AccessControlList(publish_allow=("a/b",)),
    ]
    assert len({each.digest for each in lists}) == len(lists)
    assert AccessControlList(("a",)).digest == AccessControlList(("a",)).digest == "8de8cd75798aab2c"
