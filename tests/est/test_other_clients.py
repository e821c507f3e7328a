"""Somebody else's client of EST, written by the RFC and without a thought of us: GlobalSign's, in Go."""

import asyncio
import shutil
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from ca.inventory import AuthorityKind
from est.profiles import ServerKey
from tests.est.world import EstWorld, Holder, new_key, request

pytestmark = pytest.mark.skipif(
    shutil.which("estclient") is None, reason="GlobalSign's estclient is not installed here"
)

OUT = "out.pem"


async def run(est: EstWorld, command: str, *arguments: object, holder: Holder | None = None) -> list[x509.Certificate]:
    """Run a command of the client and read the certificates that it writes."""
    said = [command, "-server", est.url.removeprefix("https://"), "-explicit", est.root_file, *arguments]
    if holder is not None:
        said += ["-certs", holder.certificate_file, "-key", holder.key_file]
    done = await asyncio.to_thread(
        subprocess.run, ["estclient", *map(str, said)], capture_output=True, check=False, cwd=est.folder, timeout=20
    )
    assert done.returncode == 0, done.stderr.decode()
    return x509.load_pem_x509_certificates((est.folder / OUT).read_bytes())


def csr(est: EstWorld, der: bytes) -> str:
    """Write a request to a file, in PEM, and return its name."""
    pem = x509.load_der_x509_csr(der).public_bytes(Encoding.PEM)
    (est.folder / "device.csr").write_bytes(pem)
    return "device.csr"


async def test_cacerts(est: EstWorld) -> None:
    found = await run(est, "cacerts", "-out", OUT)
    ours = [est.world.authorities.current(kind).certificate for kind in (AuthorityKind.ROOT, AuthorityKind.ISSUING)]
    assert {one.subject for one in found} == {one.subject for one in ours}


async def test_it_enrols_renews_and_rekeys(est: EstWorld) -> None:
    bootstrap, key = await est.bootstrap("meter-001"), new_key()
    (first,) = await run(est, "enroll", "-csr", csr(est, request(key, "meter-001")), "-out", OUT, holder=bootstrap)
    device = est.hold([first], key)
    (renewed,) = await run(est, "reenroll", "-out", OUT, holder=device)
    assert (renewed.public_key(), renewed.subject) == (key.public_key(), first.subject)
    next_key = new_key()
    wish = csr(est, request(next_key, "meter-001"))
    (rekeyed,) = await run(est, "reenroll", "-csr", wish, "-out", OUT, holder=est.hold([renewed], key))
    assert rekeyed.public_key() == next_key.public_key()


async def test_it_has_a_key_made(est: EstWorld) -> None:
    await est.label("made", server_key_generation=ServerKey.P256)
    asked = ["-aps", "made", "-csr", csr(est, request(new_key(), "meter-001")), "-keyout", "made.key", "-out", OUT]
    (made,) = await run(est, "serverkeygen", *asked, holder=await est.bootstrap("meter-001"))
    key = load_pem_private_key((est.folder / "made.key").read_bytes(), None)
    assert made.public_key() == key.public_key()
