"""The decisions by themselves: every fact that stands against an enrolment, alone and in order."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from est.facts import (
    Binding,
    DeviceLabel,
    DeviceState,
    EnrolmentFacts,
    KeyOwner,
    PresentedState,
    RenewalFacts,
    SecretState,
    decode_enrolment_facts,
    decode_renewal_facts,
    encode_facts,
)
from est.profiles import OPERATIONS, EnrolmentMode, EnrolmentProfile, Renewal, Settings, Way, identifier_pattern, label
from est.refusals import PROCEED, REPEAT, Decision, Refusal, Refuse
from est.rules import (
    Entitlement,
    Renewing,
    decide_enrol,
    decide_reenrol,
    expected_enrolment,
    expected_renewal,
)
from iam.errors import Refused
from iam.model import NONE, Extent

JITP = EnrolmentProfile(
    id=UUID(int=1),
    tenant=UUID(int=2),
    name="meters",
    mode=EnrolmentMode.JITP,
    authority=UUID(int=3),
    certificate_profile="device",
    bootstrap_anchors=(),
    identifier_pattern=None,
    role_name="device",
    expired_may_renew=False,
    previous_grace=timedelta(0),
    created=datetime(2030, 1, 1, tzinfo=UTC),
)
METERS = replace(JITP, identifier_pattern="meter-*")
UNREPLACED = replace(JITP, settings=Settings(replaces=False))
STRICT = replace(JITP, mode=EnrolmentMode.PRE_REGISTERED)

NEW = EnrolmentFacts(DeviceState.ABSENT)
REGISTERED = EnrolmentFacts(DeviceState.REGISTERED)
KNOWN = EnrolmentFacts(DeviceState.IDENTIFIED)
BOUND = replace(REGISTERED, binding=Binding.MATCHES)

ENROL: list[tuple[EnrolmentProfile, EnrolmentFacts, Decision]] = [
    (JITP, NEW, PROCEED),
    (JITP, REGISTERED, PROCEED),
    (JITP, BOUND, PROCEED),
    (JITP, replace(REGISTERED, binding=Binding.DIFFERS), Refuse(Refusal.NOT_BOUND)),
    (STRICT, NEW, Refuse(Refusal.NOT_REGISTERED)),
    (STRICT, REGISTERED, Refuse(Refusal.NOT_BOUND)),
    (STRICT, replace(REGISTERED, binding=Binding.DIFFERS), Refuse(Refusal.NOT_BOUND)),
    (STRICT, BOUND, PROCEED),
    (JITP, KNOWN, Refuse(Refusal.HAS_IDENTITY)),
    (JITP, replace(KNOWN, is_replacement_allowed=True), PROCEED),
    (JITP, replace(KNOWN, is_answered=True), REPEAT),
    (UNREPLACED, replace(KNOWN, is_replacement_allowed=True), Refuse(Refusal.NEVER_REPLACED)),
    (UNREPLACED, replace(KNOWN, is_answered=True), REPEAT),
    (JITP, replace(NEW, secret=SecretState.USABLE), PROCEED),
    (JITP, replace(NEW, secret=SecretState.SPENT), Refuse(Refusal.SECRET_SPENT)),
    (JITP, replace(NEW, secret=SecretState.GONE), Refuse(Refusal.SECRET_REFUSED)),
    (JITP, replace(KNOWN, secret=SecretState.SPENT, is_answered=True), REPEAT),
    (JITP, replace(KNOWN, secret=SecretState.GONE, is_answered=True), Refuse(Refusal.SECRET_REFUSED)),
    (JITP, replace(KNOWN, is_answered=True, is_bootstrap_revoked=True), Refuse(Refusal.REVOKED)),
    (JITP, replace(KNOWN, is_answered=True, is_within_label=False), Refuse(Refusal.OTHER_TENANT)),
    (JITP, replace(KNOWN, is_answered=True, is_tenant_active=False), Refuse(Refusal.TENANT_BLOCKED)),
    (JITP, replace(KNOWN, is_answered=True, is_identity_active=False), Refuse(Refusal.IDENTITY_SUSPENDED)),
    (STRICT, replace(KNOWN, is_answered=True), Refuse(Refusal.NOT_BOUND)),
    (JITP, replace(KNOWN, is_replacement_allowed=True, is_identity_active=False), Refuse(Refusal.IDENTITY_SUSPENDED)),
    (
        JITP,
        EnrolmentFacts(DeviceState.DECOMMISSIONED, is_replacement_allowed=True),
        Refuse(Refusal.DECOMMISSIONED),
    ),
    (JITP, replace(NEW, is_bootstrap_revoked=True), Refuse(Refusal.REVOKED)),
    (JITP, replace(NEW, is_within_label=False), Refuse(Refusal.OTHER_TENANT)),
    (JITP, replace(NEW, is_tenant_active=False), Refuse(Refusal.TENANT_BLOCKED)),
    (JITP, replace(NEW, is_name_taken=True), Refuse(Refusal.NAME_TAKEN)),
    (JITP, replace(NEW, has_role=False), Refuse(Refusal.NO_ROLE)),
    (JITP, replace(REGISTERED, is_registered_elsewhere=True), Refuse(Refusal.REGISTERED_ELSEWHERE)),
    (JITP, replace(KNOWN, is_replacement_allowed=True, has_role=False), PROCEED),
    (JITP, replace(NEW, key_owner=KeyOwner.THIS), PROCEED),
    (JITP, replace(NEW, key_owner=KeyOwner.OTHER), Refuse(Refusal.KEY_TAKEN)),
    (JITP, replace(NEW, key_owner=KeyOwner.AUTHORITY), Refuse(Refusal.KEY_TAKEN)),
    (JITP, replace(NEW, key_owner=KeyOwner.COMPROMISED), Refuse(Refusal.KEY_COMPROMISED)),
    (JITP, replace(KNOWN, is_answered=True, key_owner=KeyOwner.COMPROMISED), Refuse(Refusal.KEY_COMPROMISED)),
]

SAME = RenewalFacts(PresentedState.ACTIVE, KeyOwner.THIS)

REENROL: list[tuple[RenewalFacts, Decision]] = [
    (SAME, PROCEED),
    (replace(SAME, key_owner=KeyOwner.NOBODY), PROCEED),
    (replace(SAME, presented=PresentedState.RECENTLY_SUPERSEDED), PROCEED),
    (replace(SAME, presented=PresentedState.SUPERSEDED), Refuse(Refusal.SUPERSEDED)),
    (replace(SAME, presented=PresentedState.SUPERSEDED, is_answered=True), REPEAT),
    (replace(SAME, presented=PresentedState.REVOKED, is_answered=True), Refuse(Refusal.REVOKED)),
    (replace(SAME, presented=PresentedState.ABSENT), Refuse(Refusal.NOT_ON_RECORD)),
    (replace(SAME, presented=PresentedState.DIFFERS), Refuse(Refusal.NOT_ON_RECORD)),
    (replace(SAME, device=DeviceState.DECOMMISSIONED), Refuse(Refusal.DECOMMISSIONED)),
    (replace(SAME, device=DeviceState.ABSENT), Refuse(Refusal.NOT_THE_DEVICE)),
    (replace(SAME, device=DeviceState.OTHER), Refuse(Refusal.NOT_THE_DEVICE)),
    (replace(SAME, device=DeviceState.REGISTERED), Refuse(Refusal.NOT_THE_DEVICE)),
    (replace(SAME, is_within_label=False), Refuse(Refusal.OTHER_TENANT)),
    (replace(SAME, is_tenant_active=False), Refuse(Refusal.TENANT_BLOCKED)),
    (replace(SAME, is_identity_active=False, is_answered=True), Refuse(Refusal.IDENTITY_SUSPENDED)),
    (replace(SAME, key_owner=KeyOwner.OTHER), Refuse(Refusal.KEY_TAKEN)),
    (replace(SAME, key_owner=KeyOwner.COMPROMISED), Refuse(Refusal.KEY_COMPROMISED)),
    (replace(SAME, key_owner=KeyOwner.COMPROMISED, is_answered=True), Refuse(Refusal.KEY_COMPROMISED)),
    (replace(SAME, label=DeviceLabel.OTHER), Refuse(Refusal.OTHER_LABEL)),
    (replace(SAME, label=DeviceLabel.OTHER, is_answered=True), Refuse(Refusal.OTHER_LABEL)),
    (replace(SAME, label=DeviceLabel.DELETED), PROCEED),
]


@pytest.mark.parametrize(("profile", "facts", "decision"), ENROL)
def test_enrol(profile: EnrolmentProfile, facts: EnrolmentFacts, decision: Decision) -> None:
    assert decide_enrol(profile, facts) == decision


NOW = datetime(2030, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SOON = Renewing(NOW, NOW + DAY, is_same_key=True)


@pytest.mark.parametrize(("facts", "decision"), REENROL)
def test_reenrol(facts: RenewalFacts, decision: Decision) -> None:
    assert decide_reenrol(JITP, facts, SOON) == decision


@pytest.mark.parametrize(
    ("label_of_device", "decision"),
    [(DeviceLabel.OWN, PROCEED), (DeviceLabel.DELETED, Refuse(Refusal.EXPIRED))],
)
def test_what_has_expired_renews_under_its_own_label_alone(label_of_device: DeviceLabel, decision: Decision) -> None:
    asked = replace(SOON, ends=NOW - DAY)
    assert decide_reenrol(JITP, replace(SAME, label=label_of_device), asked) == decision


@pytest.mark.parametrize(
    ("terms", "asked", "facts", "decision"),
    [
        (Renewal(opens=10 * DAY), replace(SOON, ends=NOW + 11 * DAY), SAME, Refuse(Refusal.TOO_EARLY)),
        (Renewal(opens=10 * DAY), replace(SOON, ends=NOW + 10 * DAY), SAME, PROCEED),
        (Renewal(opens=10 * DAY), replace(SOON, ends=NOW + 11 * DAY), replace(SAME, is_answered=True), REPEAT),
        (Renewal(with_same_key=False), SOON, SAME, Refuse(Refusal.KEY_MUST_CHANGE)),
        (Renewal(with_same_key=False), replace(SOON, is_same_key=False), SAME, PROCEED),
        (Renewal(with_new_key=False), replace(SOON, is_same_key=False), SAME, Refuse(Refusal.KEY_MUST_STAY)),
        (Renewal(with_new_key=False), SOON, SAME, PROCEED),
    ],
)
def test_what_a_label_says_of_renewing(
    terms: Renewal, asked: Renewing, facts: RenewalFacts, decision: Decision
) -> None:
    assert decide_reenrol(replace(JITP, settings=Settings(renewal=terms)), facts, asked) == decision


@pytest.mark.parametrize(
    ("profile", "way", "named", "goes_by_pattern", "proceeds"),
    [
        (JITP, Way.SECRET, "meter-001", False, True),
        (JITP, Way.SECRET, "meter-002", False, False),
        (JITP, Way.SECRET, None, True, False),
        (METERS, Way.SECRET, None, True, True),
        (METERS, Way.SECRET, "meter-002", False, False),
        (METERS, Way.TOKEN, None, False, False),
        (METERS, Way.CERTIFICATE, "batch-7", True, True),
        (STRICT, Way.SECRET, None, True, False),
        (STRICT, Way.CERTIFICATE, None, True, True),
    ],
)
def test_whom_a_credential_speaks_for(
    profile: EnrolmentProfile, way: Way, named: str | None, *, goes_by_pattern: bool, proceeds: bool
) -> None:
    devices = NONE if named is None else Extent(names=frozenset({named}))
    one = Entitlement(way, "it", devices, Refusal.SECRET_NOT_NAMED, goes_by_pattern=goes_by_pattern)
    found = one.decide_identifier(profile, "meter-001")
    assert (found == PROCEED) is proceeds
    assert proceeds or (isinstance(found, Refuse) and found.refusal is Refusal.SECRET_NOT_NAMED)


def test_a_registered_device_is_bound_by_what_names_it_and_is_no_certificate() -> None:
    assert decide_enrol(STRICT, REGISTERED, is_bound=True) == PROCEED
    bound_elsewhere = replace(REGISTERED, binding=Binding.DIFFERS)
    assert decide_enrol(STRICT, bound_elsewhere, is_bound=True) == Refuse(Refusal.NOT_BOUND)
    named = Extent(names=frozenset({"meter-001"}))
    assert Entitlement(Way.TOKEN, "it", named, Refusal.TOKEN_NOT_NAMED).binds("meter-001")
    assert not Entitlement(Way.CERTIFICATE, "it", named, Refusal.NOT_NAMED).binds("meter-001")


@pytest.mark.parametrize("facts", [facts for _, facts, _ in ENROL])
def test_enrolment_facts_survive_their_json(facts: EnrolmentFacts) -> None:
    assert decode_enrolment_facts(encode_facts(facts)) == facts


@pytest.mark.parametrize("facts", [facts for facts, _ in REENROL])
def test_renewal_facts_survive_their_json(facts: RenewalFacts) -> None:
    assert decode_renewal_facts(encode_facts(facts)) == facts


def test_what_is_expected_is_let_through() -> None:
    for profile in (JITP, STRICT):
        assert decide_enrol(profile, expected_enrolment(profile)) == PROCEED
    for same_key in (False, True):
        assert decide_reenrol(JITP, expected_renewal(same_key=same_key), SOON) == PROCEED
    for mode in (JITP, STRICT):
        by_secret = expected_enrolment(mode, is_bound=True, by_secret=True)
        assert decide_enrol(mode, by_secret, is_bound=True) == PROCEED


def test_each_refusal_has_its_own_sentence() -> None:
    assert len({one.sentence for one in Refusal}) == len(Refusal.__members__)


@pytest.mark.parametrize("text", [*sorted(OPERATIONS), "CACERTS", "", "-a", "a/b", "a.b", "a" * 64, "a\n", "é"])
def test_labels_that_are_none(text: str) -> None:
    with pytest.raises(Refused):
        label(text)


@pytest.mark.parametrize("text", ["", "[a-z]", "a/b", "a b", "a\n", "(a+)+", "a" * 129, "a|b"])
def test_patterns_that_are_none(text: str) -> None:
    with pytest.raises(Refused):
        identifier_pattern(text)


@pytest.mark.parametrize(
    ("pattern", "identifier", "covered"),
    [
        ("meter-*", "meter-001", True),
        ("meter-*", "meter-", True),
        ("meter-*", "xmeter-001", False),
        ("meter-???", "meter-001", True),
        ("meter-???", "meter-0001", False),
        ("meter.1", "meterx1", False),
        ("METER-*", "meter-001", False),
        (None, "meter-001", False),
        ("*" * 64 + "b", "a" * 128, False),
    ],
)
def test_patterns(pattern: str | None, identifier: str, *, covered: bool) -> None:
    assert replace(JITP, identifier_pattern=pattern).covers(identifier) is covered
