"""What certificates name of their issuer, its revocation list and its OCSP responder: there before anybody asks.

The rules:

1. An authority that is made, taken in with its key, or given its next key, has its first list and its responder before
   whoever asked for it is told; so no certificate that he has issued names what is not there.
2. What cannot be made now (its key is away) keeps nobody from what was asked for: it is left to the jobs, and the log
   says so.
"""

import logging

from ca.authority import Authority
from ca.list_publishing import ListPublisher
from ca.responders import Responders
from iam.errors import Refused

_log = logging.getLogger("ca.publication")


class Publication:
    """Makes what is due, at once."""

    def __init__(self, lists: ListPublisher, responders: Responders) -> None:
        self._lists = lists
        self._responders = responders

    async def begin(self, authority: Authority) -> None:
        """Make the first list and the first responder of an authority (rule 1); it may have them already."""
        for make in (self._lists.publish, self._responders.provide):
            try:
                await make(authority)
            except Refused as refused:
                _log.warning("what %s publishes cannot be made now: %s", authority.name, refused.reason)

    async def make_due(self) -> None:
        """Make the lists and responders of all authorities that are due."""
        for make in (self._lists.publish_lists, self._responders.renew):
            try:
                await make()
            except Refused as refused:
                _log.warning("what certificates name cannot be published now: %s", refused.reason)
