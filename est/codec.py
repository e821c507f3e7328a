"""What EST looks like on the wire, exactly as clients depend on it.

The rules:

1. Content types are spelt as here: one space, no quotes (RFC 7030 3.2.4); a widely used client compares the literal.
2. What is sent is base64 in lines of 64 columns with a final newline: OpenSSL's decoder fails without a word on long
   lines. It is said to be so (`Content-Transfer-Encoding: base64`), since some clients ask; what a client says about
   its own is not read (RFC 8951 3.1).
3. An answer has a known length.
4. Of an answer in parts (RFC 7030 4.4.2; RFC 2046 5.1) each part says its type and that it is base64; the whole says
   neither encoding nor anything before, between or after them.
"""

from base64 import b64encode
from collections.abc import Iterable

PKCS10 = "application/pkcs10"
PKCS7 = "application/pkcs7-mime"
CERTS_ONLY = "application/pkcs7-mime; smime-type=certs-only"
PKCS8 = "application/pkcs8"
SERVER_GENERATED_KEY = "application/pkcs7-mime; smime-type=server-generated-key"
CSRATTRS = "application/csrattrs"

_COLUMNS = 64
_BOUNDARY = "doorward-est-serverkeygen"  # no line of base64 begins with two hyphens
MULTIPART = f"multipart/mixed; boundary={_BOUNDARY}"


def encode_base64(der: bytes) -> bytes:
    """Return DER as it is sent."""
    text = b64encode(der)
    return b"".join(text[start : start + _COLUMNS] + b"\n" for start in range(0, len(text), _COLUMNS))


def answer_headers(content_type: str) -> dict[str, str]:
    """Return the headers of an answer in base64."""
    return {"Content-Type": content_type, "Content-Transfer-Encoding": "base64"}


def encode_parts(parts: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the body of `MULTIPART`: each part by its content type and its DER."""
    body = b""
    for content_type, der in parts:
        headers = "".join(f"{name}: {value}\r\n" for name, value in answer_headers(content_type).items())
        body += f"--{_BOUNDARY}\r\n{headers}\r\n".encode() + encode_base64(der).replace(b"\n", b"\r\n")
    return body + f"--{_BOUNDARY}--\r\n".encode()
