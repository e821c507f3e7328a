"""`login`: prove a key to a server by challenge, as a gateway or a person with a key does."""

import base64
import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from challenge.nonce import Purpose, read_challenge
from challenge.proof import signed_message
from doorward.commands.printing import print_json, print_lines
from iam.errors import Kind, Refused, forbidden
from iam.public_keys import SigningKey, load_private_key

_SECONDS = 10


class ApiClient:
    """A small client of the REST API, for the command line and the demo.

    Args:
        root: The root certificate to trust, in PEM.
        token: A bearer token, if there is one yet.

    Raises:
        Refused: (invalid) The root cannot be read.
    """

    def __init__(self, url: str, root: Path, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._trust = _trust(root)
        self.token = token

    def request(self, method: str, path: str, body: Any = None) -> Any:  # noqa: ANN401 - any JSON
        """Return the JSON of an answer, or None if it has no body.

        Raises:
            Refused: With the server's own words; (unavailable) It cannot be reached.
        """
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310 - https, below
        if not self.url.startswith("https://"):
            raise Refused(Kind.INVALID, f"{self.url} is not an https URL.")
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS, context=self._trust) as answer:  # noqa: S310 - https
                content = answer.read()
        except urllib.error.HTTPError as error:
            raise _refusal(error) from error
        except OSError as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            words = getattr(reason, "strerror", None) or reason
            raise Refused(Kind.UNAVAILABLE, f"{self.url} cannot be reached: {words}.") from error
        return json.loads(content) if content else None

    def prove(self, key: SigningKey) -> dict[str, Any]:
        """Answer a challenge for `key`; return the token, the identity's id and when the token expires."""
        return self._answer("/auth/verify", key, Purpose.LOGIN, {})

    def register(self, key: SigningKey, fields: dict[str, Any]) -> dict[str, Any]:
        """Register `key` with these further fields of the body; return what was registered."""
        return self._answer("/identity/register", key, Purpose.REGISTER, fields)

    def _answer(self, path: str, key: SigningKey, purpose: Purpose, fields: dict[str, Any]) -> dict[str, Any]:
        public_key = base64.b64encode(key.spki).decode()
        asked = self.request("POST", "/auth/challenge", {"public_key": public_key, "purpose": purpose})
        challenge = asked["challenge"]
        line = read_challenge(challenge)
        if line.purpose is not purpose:
            raise forbidden(f"The server sent a challenge for something other than {purpose}; it is not signed.")
        if line.audience != self.url:
            raise forbidden(f"The challenge is for {line.audience}, not {self.url}: it is not signed. Use that URL.")
        signature = base64.b64encode(key.sign(signed_message(challenge))).decode()
        proof = {"public_key": public_key, "challenge": challenge, "signature": signature}
        answer: dict[str, Any] = self.request("POST", path, {**proof, **fields})
        return answer


def login(url: str, key_file: Path, passphrase_file: Path | None, root: Path | None, *, as_json: bool) -> int:
    """Print the token that a key gets."""
    key = read_key(key_file, passphrase_file)
    proved = ApiClient(url, trusted_root(root, key_file.parent)).prove(key)
    if as_json:
        print_json(proved)
    else:
        print_lines(proved["token"])
    return 0


def read_key(key_file: Path, passphrase_file: Path | None) -> SigningKey:
    """Return a private key; its passphrase, if it has one, is the first line of a file."""
    try:
        passphrase = None if passphrase_file is None else passphrase_file.read_bytes().partition(b"\n")[0].rstrip(b"\r")
        return load_private_key(key_file.read_bytes(), passphrase)
    except OSError as error:
        raise Refused(Kind.INVALID, f"{error.filename} cannot be read: {error.strerror}.") from error


def trusted_root(named: Path | None, beside: Path) -> Path:
    """Return the root certificate to trust: the named one, else the one beside the keys, or that of a node here."""
    if named is not None:
        return named
    for candidate in (beside / "root.pem", Path("var/ca/root.pem")):
        if candidate.exists():
            return candidate
    raise Refused(Kind.INVALID, "Name the root certificate to trust with --root.")


def _trust(root: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(root))
    except ssl.SSLError as error:
        raise Refused(Kind.INVALID, f"There is no certificate in {root}.") from error
    except OSError as error:
        raise Refused(Kind.INVALID, f"The root {root} cannot be read: {error.strerror}.") from error


def _refusal(error: urllib.error.HTTPError) -> Refused:
    with error:
        text = error.read().decode(errors="replace")
    try:
        problem = json.loads(text)
        detail = problem["detail"]
        fields = {one["field"]: one["detail"] for one in problem.get("errors", [])}
    except (ValueError, KeyError, TypeError):
        detail, fields = text.strip() or error.reason, {}
    kinds = {401: Kind.UNAUTHENTICATED, 403: Kind.FORBIDDEN, 404: Kind.NOT_FOUND, 409: Kind.CONFLICT}
    return Refused(kinds.get(error.code, Kind.INVALID), f"The server refused ({error.code}): {detail}", fields=fields)
