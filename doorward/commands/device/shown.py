"""How results look: lines for people, JSON for programs."""

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.csrattrs import WantedRequest
from certs.pem import fingerprint_sha256
from doorward.commands.device.outcome import Exit
from doorward.commands.printing import print_json, print_lines
from est.client.folder import DeviceFolder
from est.client.trust import is_root
from est.client.watch import serial_of


def print_status(shown: dict[str, object]) -> None:
    """Print what `status` found, a line each."""
    watched = shown.pop("watch", None)
    width = max(map(len, shown))
    print_lines(*(f"{name:<{width}}  {_word(value)}" for name, value in shown.items()))
    if isinstance(watched, dict):
        print_lines("watch", *(f"  {name:<{width - 2}}  {value}" for name, value in watched.items() if value))


def _word(value: object) -> object:
    return {True: "yes", False: "no", None: "unknown"}[value] if isinstance(value, bool | None) else value


def show_certificate(folder: DeviceFolder, certificate: x509.Certificate, *, as_json: bool) -> Exit:
    """Show the certificate that there is now; return the exit status."""
    serial, until = serial_of(certificate), certificate.not_valid_after_utc.isoformat()
    key = folder.uri if folder.uri.exists() else folder.own.key
    if as_json:
        files = {"certificate": str(folder.own.certificate), "key": str(key)}
        print_json({**files, "serial": serial, "notAfter": until})
    else:
        print_lines(f"Certificate {serial}, valid until {until}:", f"  {folder.own.certificate}", f"  {key}")
    return Exit.DONE


def shown_authority(certificate: x509.Certificate) -> dict[str, object]:
    """Return what is said of an authority's certificate."""
    return {
        "subject": certificate.subject.rfc4514_string(),
        "notAfter": certificate.not_valid_after_utc.isoformat(),
        "isRoot": is_root(certificate),
        "sha256": fingerprint_sha256(certificate.public_bytes(Encoding.DER)),
    }


def shown_wanted(wanted: WantedRequest) -> dict[str, object]:
    """Return what is said of what a server wants."""
    key = None
    if wanted.key is not None:
        name = "EC" if wanted.key.algorithm is None else wanted.key.algorithm.value
        key = name if wanted.key.rsa_bits is None else f"{name}-{wanted.key.rsa_bits}"
    return {
        "proofOfPossession": wanted.challenge_password,
        "key": key,
        "signature": wanted.signature.dotted_string if wanted.signature else None,
        "subject": [{"type": one.oid.dotted_string, "value": one.value} for one in wanted.subject],
        "extensions": [
            {
                "type": one.oid.dotted_string,
                "critical": one.critical,
                "value": one.value.hex() if one.value is not None else None,
            }
            for one in wanted.extensions
        ],
        "unknown": [one.dotted_string for one in wanted.unknown],
    }
