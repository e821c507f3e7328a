"""What relying parties fetch: revocation lists and authorities' certificates."""

from ca.authorities import Authorities
from ca.revocation import RevocationService
from iam.guard import Answer, Call, Public, Route

_TAG = "Publication"
_RELYING_PARTIES = Public("whoever checks a certificate of ours fetches this, and it is signed")
_LIST_SECONDS = 10
_AUTHORITY_SECONDS = 3600


def routes(revocation: RevocationService, authorities: Authorities) -> list[Route]:
    """Return the routes of relying parties."""

    async def get_list(call: Call) -> Answer:
        found = await revocation.current_list(authorities.by_name(call.path["authority"]))
        tag = f'"{found.number}"'
        headers = {"ETag": tag, "Cache-Control": f"public, max-age={_LIST_SECONDS}, must-revalidate"}
        if call.request.headers.get("If-None-Match") == tag:
            return Answer(304, headers=headers)
        return Answer(content=found.der, headers={**headers, "Content-Type": "application/pkix-crl"})

    async def get_authority(call: Call) -> Answer:
        found = authorities.by_name(call.path["authority"])
        headers = {
            "Content-Type": "application/pkix-cert",
            "Cache-Control": f"public, max-age={_AUTHORITY_SECONDS}",
        }
        return Answer(content=found.der, headers=headers)

    return [
        Route(
            "GET",
            "/crl/{authority}.crl",
            get_list,
            _RELYING_PARTIES,
            "Fetch an authority's revocation list",
            _TAG,
            answers="application/pkix-crl",
        ),
        Route(
            "GET",
            "/ca/{authority}.crt",
            get_authority,
            _RELYING_PARTIES,
            "Fetch an authority's certificate",
            _TAG,
            answers="application/pkix-cert",
        ),
    ]
