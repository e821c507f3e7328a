"""cacerts and csrattrs over real TLS, without any client certificate."""

from base64 import b64decode

from certs.pkcs7 import parse_certs_only
from tests.est.world import EstWorld


async def test_cacerts_has_the_root_and_all_between(est: EstWorld) -> None:
    for path in ("/cacerts", "/default/cacerts"):
        answer = await est.curl(path)
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/pkcs7-mime")
        assert answer.headers["Content-Transfer-Encoding"] == "base64"
        found = {one.subject for one in parse_certs_only(b64decode(answer.body))}
        wanted = {est.world.authorities.by_name(name).certificate.subject for name in ("root", "issuing")}
        assert found == wanted


async def test_csrattrs_asks_for_nothing(est: EstWorld) -> None:
    answer = await est.curl("/csrattrs")
    assert (answer.status, answer.headers["Content-Type"], answer.body) == (200, "application/csrattrs", b"MAA=\n")
