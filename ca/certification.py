"""Certificates on an operator's request, by one of his authorities, outside of EST.

The rules:

1. The profile says what the certificate holds; the request gives a key that it proves to have, and names. What else the
   request asks for is passed over.
2. By the profile's rule for the subject: a host gets the DNS names and addresses that the request lists as alternative
   names; a device to be gets the one common name. A device's own certificate is enrolled, by EST, and an authority's is
   made as an authority: neither comes out here.
3. The key is no authority's, and was never compromised.
4. The certificate is on record, as the tenant's, before anybody has it.
"""

from ipaddress import IPv4Address, IPv6Address

from cryptography import x509

from ca.administration import AuthorityAdministration
from ca.authorities import Authorities
from ca.inventory import CertificateStatus, StoredCertificate
from ca.issue import SERIAL_BYTES, Holder, device_to_be, host
from ca.store.authority_keys import is_key_barred
from ca.store.certificates import insert_certificate
from certs.csr import CertificateRequest, parse_request
from certs.names import subject_identifier
from certs.profile import AlternativeNameRule, Profile, SubjectRule
from iam.access import Access
from iam.errors import Kind, Refused
from iam.identifiers import Clock, Random
from iam.model import Tenant
from iam.store.database import EVERYWHERE, Change, Database


class Certification:
    """Certifies requests."""

    def __init__(
        self,
        database: Database,
        authorities: Authorities,
        administration: AuthorityAdministration,
        clock: Clock,
        random: Random,
    ) -> None:
        self._database = database
        self._authorities = authorities
        self._administration = administration
        self._clock = clock
        self._random = random

    async def certify(
        self, access: Access, tenant: Tenant, reference: str, request: bytes, profile: str | None
    ) -> StoredCertificate:
        """Certify a request (DER) by the newest key of an authority, under a profile or the authority's own.

        Raises:
            Refused: (not found) There is no such authority or profile. (invalid) Such a certificate is not made here.
                (conflict) The key is an authority's, or was compromised. (unavailable) Nothing is issued now.
            CertificateRefused: The request is not acceptable.
        """
        named = await self._administration.visible(tenant, reference)
        identifier = profile or named.profile
        rules = self._administration.usable_profile(tenant, identifier)
        read = parse_request(request, rules.key_policy)
        holder, device = _holder(read, rules)
        issuer = self._authorities.issuer(named.id)
        now = self._clock()
        await self._check_key(read.spki_sha256, tenant)
        template = self._authorities.template(issuer, identifier)
        issued = await template.issue_in_turn(holder, now, self._random(SERIAL_BYTES))
        one = StoredCertificate(
            serial=issued.serial,
            authority=issuer.id,
            tenant=tenant.id,
            profile=identifier,
            device=device,
            identity=None,
            subject=issued.subject,
            spki_sha256=issued.spki_sha256,
            request_sha256=read.sha256,
            not_before=issued.not_before,
            not_after=issued.not_after,
            der=issued.der,
            status=CertificateStatus.ACTIVE,
            issued=now,
        )
        async with self._database.transaction(tenant.id) as transaction:
            await insert_certificate(transaction, one)
            data = {"profile": identifier, "authority": issuer.name, "device": device}
            change = Change(tenant.id, access.identity.id, "certificate.issued", issued.serial.hex(), data)
            await transaction.record(change)
        return one

    async def _check_key(self, spki_sha256: bytes, tenant: Tenant) -> None:
        async with self._database.transaction(EVERYWHERE) as transaction:  # a key may be anybody's
            if await is_key_barred(transaction, spki_sha256, tenant.path):
                raise Refused(Kind.CONFLICT, "The key is an authority's, or was compromised.")


def _holder(request: CertificateRequest, profile: Profile) -> tuple[Holder, str | None]:
    match profile.subject:
        case SubjectRule.HOST:
            names = [one.value for one in request.subject_alternative_name if isinstance(one, x509.DNSName)]
            values = [one.value for one in request.subject_alternative_name if isinstance(one, x509.IPAddress)]
            addresses = [one for one in values if isinstance(one, IPv4Address | IPv6Address)]
            if len(names) + len(addresses) != len(request.subject_alternative_name):
                raise Refused(Kind.INVALID, "A host's alternative names are DNS names and addresses alone.")
            return host(names, addresses, request.spki_der), None
        case SubjectRule.DEVICE_IDENTIFIER if profile.subject_alternative_name is AlternativeNameRule.NONE:
            identifier = subject_identifier(request.subject)
            return device_to_be(identifier, request.spki_der), identifier
        case SubjectRule.DEVICE_IDENTIFIER:
            raise Refused(Kind.INVALID, "A device's own certificate is enrolled by EST, and comes from nowhere else.")
        case _:
            raise Refused(Kind.INVALID, "An authority is made as one: its key stays here, or it is taken in.")
