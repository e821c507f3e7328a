"""An access as NATS permissions."""

import pytest

from callout.claims import ConnectionType
from callout.permissions import PreparedPermissions, permissions
from iam.access import Access
from iam.model import SYSTEM_TENANT
from iam.topics import access_control_list
from tests.callout.brokers import access, allow, deny, tenant

RULES = [allow("all", "${tenant}/a/#")]


class TestPermissions:
    def test_an_access_is_worked_out_once_and_its_successor_anew(self) -> None:
        prepared, who = PreparedPermissions(capacity=2), access(RULES)
        assert prepared.of(who) is prepared.of(who)
        changed = Access(who.tenant, who.identity, ())
        assert prepared.of(changed).acl_digest != prepared.of(who).acl_digest
        for _ in range(5):
            prepared.of(access(RULES))
        assert len(prepared._held) == 2

    def test_pitfall_4_both_subjects(self) -> None:
        who = access([allow("all", "${tenant}/a.b/#"), deny("all", "${tenant}/a.b/c/#")])
        made = permissions(access_control_list(who), who, ConnectionType.MQTT)
        assert made.publish_allow == made.subscribe_allow == ("acme.a//b.>", "acme.a//b")
        for denied in (made.publish_deny, made.subscribe_deny):
            assert {"acme.a//b.c.>", "acme.a//b.c"} <= set(denied)

    def test_pitfall_5_mqtt_may_be_delivered_to(self) -> None:
        who = access(RULES)
        made = permissions(access_control_list(who), who, ConnectionType.MQTT)
        assert "$MQTT.>" in made.publish_deny
        assert "$MQTT.>" not in made.subscribe_deny
        plain = permissions(access_control_list(who), who, ConnectionType.NATS)
        assert {"$MQTT.>", "$JS.>", "$SYS.>"} <= set(plain.publish_deny) & set(plain.subscribe_deny)

    @pytest.mark.parametrize("topic", ["#", "+/#", "+/+/x", "_INBOX/#", "_INBOX/idt-x/#"])
    def test_who_hears_everything_hears_no_inbox(self, topic: str) -> None:
        who = access([allow("all", topic)], where=tenant(SYSTEM_TENANT))
        made = permissions(access_control_list(who), who, ConnectionType.NATS)
        assert "_INBOX.>" in made.subscribe_deny

    @pytest.mark.parametrize("topic", ["+/devices/#", "doorward/#"])
    def test_who_hears_much_has_an_inbox(self, topic: str) -> None:
        who = access([allow("all", topic)], where=tenant(SYSTEM_TENANT))
        made = permissions(access_control_list(who), who, ConnectionType.NATS)
        assert f"_INBOX.{who.identity.id}.system.>" in made.subscribe_allow
        assert "_INBOX.>" not in made.subscribe_deny

    @pytest.mark.parametrize(
        ("topics", "allowed", "denied"),
        [
            (["${tenant}/a/+"], {"acme.a.*"}, {"acme.a.*.>"}),
            (["${tenant}/a/+", "${tenant}/a/b/c"], {"acme.a.b.c"}, set()),
            (["${tenant}/a/+", "${tenant}/b/c/d"], {"acme.a.*", "acme.b.c.d"}, {"acme.a.*.>"}),
            (["${tenant}/+", "${tenant}/a/b"], {"acme.a.b"}, set()),
        ],
    )
    def test_a_plus_at_the_end(self, topics: list[str], allowed: set[str], denied: set[str]) -> None:
        who = access([allow("subscribe", topic) for topic in topics])
        made = permissions(access_control_list(who), who, ConnectionType.MQTT)
        assert set(made.subscribe_allow) == allowed
        assert {each for each in made.subscribe_deny if each.startswith("acme")} == denied

    @pytest.mark.parametrize("topic", ["+", "+/+"])
    def test_a_plus_at_the_end_never_takes_the_brokers_delivery_away(self, topic: str) -> None:
        who = access([allow("subscribe", topic), allow("subscribe", "a/b/c")], where=tenant(SYSTEM_TENANT))
        made = permissions(access_control_list(who), who, ConnectionType.MQTT)
        assert not {"*.>", "*.*.>"} & set(made.subscribe_deny)
