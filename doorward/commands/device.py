"""`device enroll` and `device renew`: what a device does with its folder of keys and certificates."""

from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from doorward.commands.login import trusted_root
from doorward.commands.printing import print_json, print_lines
from doorward.embedded.process import write_private
from est.client import EstClient, EstFailure, Failure, Identification, make_key, make_request, write_key
from iam.errors import Kind, Refused

_KIND = {
    Failure.UNREACHABLE: Kind.UNAVAILABLE,
    Failure.PENDING: Kind.UNAVAILABLE,
    Failure.UNTRUSTED: Kind.FORBIDDEN,
    Failure.REFUSED: Kind.FORBIDDEN,
    Failure.MALFORMED: Kind.MALFORMED,
}


def enroll(url: str, folder: Path, label: str | None, root: Path | None, *, as_json: bool) -> int:
    """Enrol with the bootstrap certificate of a folder; a repeated call sends the same request again."""
    identifier = _read(folder / "device.id").decode().strip()
    key_file, request_file = folder / "device.key", folder / "device.csr"
    # Key and request are on the disk before they are sent: a lost answer is asked for again with the same request.
    if not key_file.exists() or not request_file.exists():
        key = make_key()
        write_private(key_file, write_key(key).decode())
        request_file.write_bytes(make_request(key, identifier))
    identification = Identification(folder / "bootstrap.pem", folder / "bootstrap.key")
    client = _client(url, folder, label, root, identification)
    certificate = _ask(lambda: client.enroll(request_file.read_bytes()))
    return _keep(folder, certificate, as_json=as_json)


def renew(url: str, folder: Path, label: str | None, root: Path | None, *, rekey: bool, as_json: bool) -> int:
    """Renew with the certificate of a folder; the new key, if one is wanted, takes its place with the certificate."""
    identification = Identification(folder / "device.pem", folder / "device.key")
    identifier = _identifier(identification.certificate)
    key = make_key() if rekey else _load(identification.key)
    client = _client(url, folder, label, root, identification)
    certificate = _ask(lambda: client.reenroll(make_request(key, identifier)))
    if rekey:
        write_private(identification.key, write_key(key).decode())
    return _keep(folder, certificate, as_json=as_json)


def _client(url: str, folder: Path, label: str | None, root: Path | None, own: Identification) -> EstClient:
    for file in (own.certificate, own.key):
        _read(file)
    anchors = trusted_root(root, folder).read_bytes()
    try:
        return EstClient(url, anchors=anchors, label=label, identification=own)
    except ValueError as error:
        raise Refused(Kind.INVALID, f"{error}.") from error


def _ask(question: Callable[[], x509.Certificate]) -> x509.Certificate:
    try:
        return question()
    except EstFailure as failure:
        status = f" ({failure.status})" if failure.status else ""
        raise Refused(_KIND[failure.failure], f"{failure.failure.capitalize()}{status}: {failure}") from failure


def _keep(folder: Path, certificate: x509.Certificate, *, as_json: bool) -> int:
    file = folder / "device.pem"
    fresh = file.with_name("device.pem.new")
    fresh.write_bytes(certificate.public_bytes(Encoding.PEM))
    fresh.replace(file)
    serial, until = f"{certificate.serial_number:032x}", certificate.not_valid_after_utc.isoformat()
    if as_json:
        print_json({"certificate": str(file), "serial": serial, "notAfter": until})
    else:
        print_lines(f"Certificate {serial}, valid until {until}:", f"  {file}", f"  {folder / 'device.key'}")
    return 0


def _identifier(certificate: Path) -> str:
    found = x509.load_pem_x509_certificate(_read(certificate))
    return str(found.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


def _load(file: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(_read(file), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Refused(Kind.INVALID, f"The key {file} is not an elliptic-curve key.")
    return key


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Refused(Kind.INVALID, f"{file} cannot be read: {error.strerror}.") from error
