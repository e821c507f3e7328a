"""Who an operator's command speaks for, and with which server; and how it goes through lists.

The rules:

1. A private key is proved by challenge, an access token is taken as it is. Without either, it is the root identity,
   with a token from the data folder: for whoever can read that.
2. The server is the one that is said; else that of the configuration where the data folder is what lets one in.
3. Labels of a group are gone through one after the other where none is said, and all pages of each list.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from doorward.commands.local import root_token
from doorward.commands.login import ApiClient, read_key, trusted_root
from doorward.config import load_configuration, process_environment
from doorward.preparation import root_file
from iam.errors import Kind, Refused

_URL = "https://127.0.0.1:8443"
_DMS = "/api/dmsmanager/v1/dms"
_PAGE = 250


class Caller:
    """The API, for one operator and in one group."""

    def __init__(self, client: ApiClient, group: str | None) -> None:
        self._client = client
        self._group = group

    def call(self, method: str, path: str, body: Any = None) -> Any:  # noqa: ANN401 - any JSON
        """Return what the server answers; errors as for `ApiClient.request`."""
        separator = "&" if "?" in path else "?"
        group = f"{separator}{urlencode({'tenant': self._group})}" if self._group else ""
        return self._client.request(method, path + group, body)

    def labels(self, said: str | None) -> list[str]:
        """Return the label that is said, or all of the group."""
        if said is not None:
            return [said]
        try:
            return [one["id"] for one in self._items(_DMS, ())]
        except Refused as refused:
            if refused.kind is Kind.FORBIDDEN:
                raise Refused(refused.kind, f"{refused.detail} Or say which one with --label.") from refused
            raise

    def items(self, label: str, kind: str, *filters: str) -> Iterator[dict[str, Any]]:
        """Go through a label's `secrets` or `approvals` that pass the filters; each says its label."""
        for one in self._items(f"{of_label(label)}/{kind}", filters):
            yield {"label": label, **one}

    def label_of(self, kind: str, identifier: str, said: str | None) -> str:
        """Return the label of a secret or an approval; raise `Refused` (not found) if there is no such one."""
        if said is not None:
            return said
        for label in self.labels(None):
            if any(self.items(label, kind, f"id[eq]{identifier}")):
                return label
        raise Refused(Kind.NOT_FOUND, f"There is no such one among the {kind} of any enrolment profile.")

    def _items(self, path: str, filters: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        query: dict[str, Any] = {"page_size": _PAGE, "filter": filters}
        while True:
            page = self.call("GET", f"{path}?{urlencode(query, doseq=True)}")
            yield from page["list"]
            if not page.get("next"):
                return
            query = {"bookmark": page["next"]}


def of_label(label: str) -> str:
    """Return the path of a label."""
    return f"{_DMS}/{quote(label, safe='')}"


def caller_of(parsed: argparse.Namespace) -> Caller:
    """Return the API for whoever the options say, by rules 1 and 2."""
    if parsed.key is not None:
        client = ApiClient(parsed.url or _URL, trusted_root(parsed.root, parsed.key.parent))
        client.token = client.prove(read_key(parsed.key, parsed.passphrase_file))["token"]
    elif parsed.token_file is not None:
        beside = Path() if str(parsed.token_file) == "-" else parsed.token_file.parent
        client = ApiClient(parsed.url or _URL, trusted_root(parsed.root, beside), _token(parsed.token_file))
    else:
        node = {"data": parsed.data}
        configuration = load_configuration(parsed.config, process_environment(), {"node": node})
        root = parsed.root or root_file(configuration.node.data)
        token = asyncio.run(root_token(configuration)).token
        client = ApiClient(parsed.url or configuration.public_url, root, token)
    return Caller(client, parsed.group)


def _token(file: Path) -> str:
    try:
        return (sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")).strip()
    except OSError as error:
        raise Refused(Kind.INVALID, f"The token {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise Refused(Kind.INVALID, f"The token {file} cannot be read: it is not text.") from error
