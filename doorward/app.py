"""The one list that wires everything: read it top to bottom to know what a worker is made of."""

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from ca.administration import AuthorityAdministration
from ca.authorities import Authorities
from ca.bulk_service import BulkRevocationService
from ca.certification import Certification
from ca.http import authorities as authority_routes
from ca.http import authority_requests, authority_signatures, authority_statistics, distribution
from ca.http import bulk_revocations as bulk_routes
from ca.http import certificates as certificate_routes
from ca.http import keys as key_routes
from ca.http import profiles as issuance_routes
from ca.http import status as status_routes
from ca.intake import AuthorityIntake
from ca.issuance_profiles import IssuanceProfiles
from ca.kms import KeyService
from ca.lasting import LastingProofs
from ca.proof import CertificateHolders, CertificateProver
from ca.publication import Publication
from ca.record_keeping import RecordKeeping
from ca.register import AuthorityRegister
from ca.responding import StatusService
from ca.revocation import RevocationService
from ca.search import CertificateSearch
from ca.service import AuthorityService
from ca.shelf import ListShelf
from callout.broker.answering import Broker
from callout.broker.servers import Endpoint
from callout.broker.watch import Watch
from callout.service import CalloutService
from challenge.http import routes as challenge_routes
from challenge.service import ChallengeService
from doorward.addresses import Addresses, account, nats_trust
from doorward.bus import Bus
from doorward.config import Configuration
from doorward.console.http import routes as console_routes
from doorward.database import Pool
from doorward.jobs import Job, Leader, run_jobs
from doorward.keys import callout_keys, keystore
from doorward.master_key import master_key
from doorward.outbound import HttpsOutbound
from doorward.outbox import Relay
from doorward.preparation import signing_identity
from doorward.publication_terms import list_publisher, ocsp_responders
from doorward.watching import WatchDuty
from est.administration import ProfileService
from est.approvals import ApprovalService
from est.authentication.approval import Approvals
from est.authentication.openid import Issuers
from est.authentication.secret import Secrets
from est.authentication.table import Authentication
from est.authentication.token import Tokens
from est.authentication.webhook import Webhooks
from est.decryption_keys import DecryptionKeys
from est.http import credentials, dms, operations
from est.http import decryption_keys as decryption_key_routes
from est.identities import IdentityBinder
from est.secrets import SecretService
from est.server_keys import ServerKeys
from est.service import EstService
from iam.directory import Directory, Monotonic
from iam.events import Event, effects_of, is_for_nodes
from iam.gate import TokenGate
from iam.guard import Guard, Route
from iam.http import audit, device_groups, device_manager, devices, identities, login, tenancy
from iam.identifiers import Clock, Random
from iam.life_cycle import Windows
from iam.model import Tenant
from iam.passwords import PasswordHasher
from iam.sealing import derive_all
from iam.service.audit import AuditService
from iam.service.device_groups import DeviceGroupService
from iam.service.device_import import DeviceImport
from iam.service.devices import DeviceService
from iam.service.foundation import lay_foundation
from iam.service.identities import IdentityService
from iam.service.keyring import KeyRing
from iam.service.life_cycle import LifeCycle
from iam.service.login import LoginService
from iam.service.pairings import PairingService
from iam.service.tenancy import TenancyService
from iam.service.tokens import TokenService, TokenTerms
from iam.store.database import Change
from iam.store.standing import read_standing

_PASSWORD_QUEUE = 64


@dataclass(frozen=True)
class App:
    """What a worker serves and keeps running, and what the command line asks it for."""

    directory: Directory
    login: LoginService
    certificates: AuthorityService
    authorities: Authorities
    administration: AuthorityAdministration
    intake: AuthorityIntake
    revocation: RevocationService
    enrolment: EstService
    audit: AuditService
    system: Tenant
    pool: Pool
    bus: Bus
    broker: Broker
    duty: WatchDuty
    leader: Leader
    relay: Relay
    jobs: Sequence[Job]
    passwords: PasswordHasher
    api_routes: Sequence[Route]
    est_routes: Sequence[Route]
    publication_routes: Sequence[Route]
    status: StatusService
    guard: Guard


async def build(  # noqa: PLR0915 - the one list: as long as there are things to wire
    configuration: Configuration,
    addresses: Addresses,
    clock: Clock,
    random: Random,
    monotonic: Monotonic = time.monotonic,
) -> App:
    """Wire one worker of a node whose database is migrated; nothing listens and nothing runs yet.

    Raises:
        Refused: (unavailable) The database or a key is gone. (invalid) The database role could look over the wall.
    """
    # The ground: keys, the database, our own events.
    master = master_key(configuration, random)
    pool = await Pool.connect(addresses.database, clock, random, size=configuration.database.pool_size)
    await pool.check_role()
    system = await lay_foundation(pool, clock, random)
    trust = nats_trust(configuration)
    bus = Bus(account(addresses, addresses.bus_user, addresses.bus_password, trust), f"doorward-{os.getpid()}")

    # Who may do what.
    terms = TokenTerms(
        issuer=configuration.public_url,
        audience=configuration.tokens.audience,
        person=configuration.tokens.person_lifetime,
        machine=configuration.tokens.machine_lifetime,
    )
    directory = Directory(
        lambda identity: read_standing(pool, identity), clock, bus.feed_is_healthy, monotonic=monotonic
    )
    key_ring = KeyRing(
        pool,
        master,
        clock,
        random,
        rotate_every=configuration.tokens.rotate_every,
        longest_token=max(terms.person, terms.machine),
        monotonic=monotonic,
    )
    await key_ring.rotate(system.id)
    passwords = PasswordHasher(slots=max(1, (os.cpu_count() or 1) // configuration.node.workers), queue=_PASSWORD_QUEUE)
    tokens = TokenService(directory, key_ring, clock, random, terms)
    tenancy_service = TenancyService(pool, clock, random)
    people = IdentityService(pool, passwords, clock, random)
    login_service = LoginService(pool, directory, tokens, passwords, master, clock, random)
    gate = TokenGate(tokens, tenancy_service)

    # The authority.
    keys = keystore(configuration, master, random)
    published_at = configuration.publication_url
    authorities = Authorities(pool, keys, clock, random, base_url=published_at)
    await authorities.ensure()
    publisher = list_publisher(configuration, pool, authorities, clock)
    responders = ocsp_responders(configuration, pool, authorities, keys, clock, random)
    publication = Publication(publisher, responders)
    administration = AuthorityAdministration(pool, authorities, keys, clock, random, publication, base_url=published_at)
    intake = AuthorityIntake(pool, authorities, administration, keys, clock, random, publication)
    register = AuthorityRegister(pool, authorities, clock)
    certification = Certification(pool, authorities, administration, clock, random)
    certificates = AuthorityService(pool, authorities, clock, random)
    revocation = RevocationService(pool)
    bulk = BulkRevocationService(pool, revocation, directory.access, clock, random)
    shelf = ListShelf(pool)
    status = StatusService(pool, authorities, responders, clock, life=configuration.publication.answer_life)
    prover = CertificateProver(pool, authorities, clock, lambda: directory.age_limit, monotonic=monotonic)

    # Enrolment, key login, brokers.
    outbound = HttpsOutbound([ip_network(one) for one in configuration.est.outbound_networks])
    authentication = Authentication(
        Secrets(pool, passwords),
        Tokens(pool, tokens.by_token, Issuers(outbound)),
        Webhooks(outbound, master, random, tokens.is_own),
        Approvals(pool, random),
        frozenset(configuration.est.trusted_proxies),
    )
    decryption_keys = DecryptionKeys(pool, master, clock, random)
    server_keys = ServerKeys(decryption_keys, lambda: signing_identity(configuration.node.data), random)
    enrolment = EstService(pool, authorities, authentication, server_keys, clock, random)
    await enrolment.ensure_default_profile(system.id)
    profiles = ProfileService(pool, revocation, master, clock, random)
    enrolment_secrets = SecretService(pool, passwords, clock, random)
    approvals = ApprovalService(pool)
    challenges = ChallengeService(
        pool,
        directory,
        people,
        login_service,
        lambda: derive_all(master, "challenge"),
        clock,
        random,
        audience=configuration.public_url,
    )

    seeds = callout_keys(configuration, master, random)
    holders = CertificateHolders(prover, directory)
    callout = CalloutService(
        lambda token: tokens.known(token) or tokens.by_token(token),
        lambda chain: holders.known(chain) or holders.by_certificate(chain),
        issuer=seeds.issuer_seed,
        xkey=seeds.xkey_seed,
        clock=clock,
        random=random,
        account=configuration.nats.account,
    )
    callout_users = [Endpoint(url, addresses.callout_user, addresses.callout_password, trust) for url in addresses.nats]
    system_users = [Endpoint(url, addresses.system_user, addresses.system_password, trust) for url in addresses.nats]
    broker = Broker(callout_users, callout)
    lasting = LastingProofs(pool, authorities)
    watch = Watch(system_users, directory, lasting.ended, account=configuration.nats.account, monotonic=monotonic)

    audit_service = AuditService(pool)

    # Devices as operators manage them.
    device_service = DeviceService(pool, clock, revocation.withdraw)
    groups = DeviceGroupService(pool, device_service, clock, random)
    windows = Windows(configuration.devices.renewal_window, configuration.devices.critical_window)
    life_cycle = LifeCycle(pool, windows)

    # Changes: applied here at once, told to every node by the relay.
    leader = Leader(pool)
    relay = Relay(pool, bus, leader)

    def committed(changes: Sequence[Change]) -> None:
        effects = [effect for change in changes for effect in effects_of(change.data)]
        directory.apply(effects)
        for change in changes:
            prover.hear(change.kind, change.data)
            status.hear(change.kind, change.subject)
            authorities.hear(change.kind, change.subject)
        if any(is_for_nodes(change.kind, change.data) for change in changes):
            bus.wake_relay()

    def heard(event: Event) -> None:
        directory.apply(event.effects)
        prover.hear(event.kind, event.data)
        status.hear(event.kind, event.subject)
        authorities.hear(event.kind, event.subject)

    pool.announce_to(committed)
    bus.on_event(heard)
    bus.on_gap(directory.clear)
    bus.on_gap(prover.clear)
    bus.on_gap(authorities.suspect)
    authorities.on_change(prover.clear)

    publication_routes = [*distribution.routes(shelf, authorities), *status_routes.routes(status, clock)]
    public_routes: list[Route] = [
        *tenancy.routes(tenancy_service),
        *identities.routes(people),
        *login.routes(login_service, key_ring),
        *devices.device_routes(device_service),
        *devices.pairing_routes(PairingService(pool)),
        *device_manager.routes(device_service, DeviceImport(pool, clock)),
        *device_groups.routes(groups),
        *challenge_routes(challenges, gate),
        *authority_requests.routes(intake, register),
        *authority_routes.routes(authorities, administration, intake, register),
        *authority_signatures.routes(authorities, administration, register, certification),
        *authority_statistics.routes(authorities, administration, register),
        *issuance_routes.routes(IssuanceProfiles(pool, authorities, clock, random)),
        *certificate_routes.routes(
            CertificateSearch(pool, clock), revocation, authorities, RecordKeeping(pool, authorities, clock)
        ),
        *bulk_routes.routes(bulk),
        *key_routes.routes(KeyService(pool, keys, clock, random)),
        *publication_routes,
        *distribution.partition_routes(publisher, authorities),
        *dms.profile_routes(profiles, authorities),
        *dms.binding_routes(profiles),
        *dms.identity_routes(IdentityBinder(pool, authorities, random), authorities),
        *decryption_key_routes.routes(decryption_keys),
        *credentials.secret_routes(enrolment_secrets),
        *credentials.approval_routes(approvals),
        *audit.routes(audit_service),
    ]
    device_routes = operations.routes(enrolment)

    def described() -> list[Route]:
        return [*public_routes, *device_routes]

    public_routes += console_routes(bus, pool, described, configuration.public_url, configuration.est_url)
    return App(
        directory=directory,
        login=login_service,
        certificates=certificates,
        authorities=authorities,
        administration=administration,
        intake=intake,
        revocation=revocation,
        enrolment=enrolment,
        audit=audit_service,
        system=system,
        pool=pool,
        bus=bus,
        broker=broker,
        duty=WatchDuty(watch, leader, bus, pool, heard),
        leader=leader,
        relay=relay,
        jobs=(
            Job("audit chain", 1.0, audit_service.chain),
            Job("revocation lists", 1.0, publisher.publish_lists),
            Job("OCSP responders", 1.0, responders.renew),
            Job("revocation of predecessors", 1.0, profiles.revoke_predecessors),
            Job("life cycle of devices", 5.0, life_cycle.advance),
            Job("bulk revocations", 1.0, bulk.work),
            Job("token keys", 600.0, lambda: key_ring.rotate(system.id)),
            Job("purge of sessions", 600.0, login_service.purge),
            Job("purge of challenges", 600.0, challenges.purge),
            Job("purge of enrolment secrets", 600.0, enrolment_secrets.purge),
            Job("purge of approvals", 600.0, approvals.purge),
        ),
        passwords=passwords,
        api_routes=public_routes,
        est_routes=device_routes,
        publication_routes=publication_routes,
        status=status,
        guard=Guard(gate),
    )


async def run_background(app: App) -> None:
    """Keep the worker's own tasks running until cancelled; the watch over connections only while it leads."""
    async with asyncio.TaskGroup() as group:
        group.create_task(app.leader.campaign(), name="campaign")
        group.create_task(app.relay.run(), name="relay")
        group.create_task(run_jobs(app.leader, app.jobs), name="jobs")
        group.create_task(app.duty.run(), name="watch")
        group.create_task(app.status.watch(), name="status of certificates")
        group.create_task(app.authorities.follow(app.bus.feed_is_healthy), name="authorities")
