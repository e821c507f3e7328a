"""What a device does: enrols, renews, waits for approval, one step after the other in its folder.

1. Whoever calls holds the folder's lock (`est.client.folder`).
2. Before a key is made the server is asked what a request should hold (csrattrs, RFC 7030 4.5; `est.client.wanted`).
   What the device's owner says counts more.
3. A step that fails leaves the folder such that the same step can be made again, and finds the answer that was lost.
4. Roots that the trusted server names as successors are taken in (`est.client.trust`), unless that is turned off.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

from cryptography import x509

from certs.csrattrs import WantedRequest
from certs.pem import read_certificates, write_certificates
from est.client.authorization import Authorization
from est.client.client import EstClient, utc_now
from est.client.connection import Identifying
from est.client.failure import EstFailure, Failure
from est.client.folder import DeviceFolder, FolderUnusable, read
from est.client.keys import KeyKind, kind_of, make_key
from est.client.opening import Opener
from est.client.own import (
    bootstrap_identification,
    destroy_spent,
    first_key,
    key_fits,
    next_key,
    own_identification,
    own_key,
    reach_by,
)
from est.client.renewal import wait_for_approval
from est.client.request import RequestTemplate, enrolment_request, renewal_request
from est.client.token_uri import Token
from est.client.trust import succeeding_roots
from est.client.wanted import as_wanted, wanted_kind

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Server:
    """Where a device asks, under which label, and with what beside its certificate; the roots are the folder's."""

    url: str
    label: str | None = None
    authorization: Authorization | None = None
    timeout_seconds: float = 15.0
    clock: Callable[[], datetime] = field(default=utc_now, repr=False)

    def client(self, roots: bytes, identification: Identifying | None = None) -> EstClient:
        """Return a client; raise `ValueError` for a URL that is none."""
        return EstClient(
            self.url,
            anchors=roots,
            label=self.label,
            identification=identification,
            authorization=self.authorization,
            timeout_seconds=self.timeout_seconds,
            clock=self.clock,
        )


@dataclass(frozen=True, slots=True)
class Wish:
    """What a device wants of a request; what is None is as the server asks for.

    Attributes:
        kind: Of a new key; if the server does not ask for one either, P-256, or the kind of the present key.
        proves_possession: Whether the request is bound to its connection.
        follows_roots: Whether the successors of roots are taken in.
        token: Where a new key is made, and how the present one is reached if it is in that token; if None a new key is
            made where the present one is, and the first in a file.
        token_key: The label of a key that is in that token already, to enrol with.
    """

    kind: KeyKind | None = None
    proves_possession: bool | None = None
    follows_roots: bool = True
    token: Token | None = None
    token_key: str | None = None


def enrol(folder: DeviceFolder, server: Server, wish: Wish, *, anew: bool = False) -> x509.Certificate:
    """Get a device its first certificate, with the bootstrap certificate of its folder if there is one.

    A label may want a secret or a token instead or beside it, or nothing but an operator's approval.

    A key that waits, or that has a certificate already, is asked with again, and gets the same certificate: only if
    `anew` a new one is made in its place.

    Raises:
        EstFailure: By the server; (pending) call again later.
        FolderUnusable: By what the folder lacks.
        KeyUnusable: By the token.
    """
    folder.recover()
    identifier = folder.identifier()
    client = server.client(read(folder.root), bootstrap_identification(folder))
    wanted = client.csrattrs()
    if anew:
        folder.give_up()
    elif wish.token is not None:
        reach_by(folder, wish.token, rekeys=True)
    kind = wish.kind or wanted_kind(wanted.key) or KeyKind.P256
    key = first_key(folder, wish.token, kind, anew=anew, called=wish.token_key)
    template = _wished(enrolment_request(key, identifier), wanted, wish, names_are_fixed=False)
    certificate = client.enroll(folder.resume(template))
    folder.finish(certificate)
    destroy_spent(folder)
    return certificate


def have_key_made(folder: DeviceFolder, server: Server, wish: Wish, opener: Opener | None = None) -> x509.Certificate:
    """Have the server make a device's key (RFC 7030 4.4), for one that cannot make a good one; errors as for `enrol`.

    If the answer is lost, so is the key: asked again, the server makes another.

    Args:
        opener: What the key is to be encrypted under on its way; as it is, within TLS, if None.
    """
    folder.recover()
    identifier = folder.identifier()
    client = server.client(read(folder.root), bootstrap_identification(folder))
    # RFC 7030 4.4.1: the request's own key and signature are ignored.
    template = enrolment_request(make_key(), identifier)
    made = client.serverkeygen(_wished(template, client.csrattrs(), wish, names_are_fixed=False), opener)
    folder.take(made.key, made.certificate)
    destroy_spent(folder)
    return made.certificate


def renew(folder: DeviceFolder, server: Server, wish: Wish, *, rekey: bool = False) -> x509.Certificate:
    """Renew a device's certificate with the one it has, with a new key if `rekey`; errors as for `enrol`.

    A key that waits since an earlier call is gone on with, whatever `rekey` says.
    """
    folder.recover()
    present = folder.certificate()
    if present is None:
        raise FolderUnusable(f"{folder.own.certificate} is not there: enrol first.")
    rekeys = rekey or folder.pending() is not None
    if wish.token is not None:
        reach_by(folder, wish.token, rekeys=rekeys)
    check_renewable(folder)
    client = server.client(read(folder.root), own_identification(folder))
    if wish.follows_roots:
        follow_roots(folder, client, server.clock())
    wanted = client.csrattrs()
    if rekeys:
        kind = wish.kind or wanted_kind(wanted.key) or kind_of(present.public_key())
        key = next_key(folder, wish.token, kind)
    else:
        key = own_key(folder)
    template = _wished(renewal_request(key, present), wanted, wish, names_are_fixed=True)
    certificate = client.reenroll(folder.resume(template))
    folder.finish(certificate)
    destroy_spent(folder)
    return certificate


def _wished(template: RequestTemplate, wanted: WantedRequest, wish: Wish, *, names_are_fixed: bool) -> RequestTemplate:
    made = as_wanted(template, wanted, names_are_fixed=names_are_fixed)
    return made if wish.proves_possession is None else replace(made, proves_possession=wish.proves_possession)


def check_renewable(folder: DeviceFolder) -> None:
    """Check that the device's certificate is that of its key, as far as that can be told; raise `FolderUnusable`."""
    if key_fits(folder) is False:
        key = folder.own.key if folder.token_key() is None else folder.uri
        if not key.exists():
            raise FolderUnusable(f"{key} is not there: enrol with --start-over, which an operator must allow.")
        raise FolderUnusable(f"{folder.own.certificate} is not the certificate of {key}.")


def follow_roots(folder: DeviceFolder, client: EstClient, now: datetime) -> tuple[x509.Certificate, ...]:
    """Take in the successors of the folder's roots (rule 4); return those that are new."""
    trusted = read_certificates(read(folder.root))
    followed = succeeding_roots(trusted, client.cacerts(), now)
    if set(followed) != set(trusted):
        folder.keep_roots(write_certificates(followed))
    return tuple(one for one in followed if one not in trusted)


def until_approved(
    ask: Callable[[], _T],
    *,
    wait: Callable[[timedelta, EstFailure], None],
    at_most: timedelta | None = None,
) -> _T:
    """Ask until the answer is not "not yet" (202) any more, and return it.

    Once an answer is waited for, a server that is away or busy for a while is no reason to end.

    Args:
        wait: Waits for a time, having been told why; may end the waiting by an exception.
        at_most: How long to wait in all; without end if None.

    Raises:
        EstFailure: As `ask` does; (pending) the time is over.
    """
    waited = timedelta(0)
    is_pending = False
    while True:
        try:
            return ask()
        except EstFailure as failure:
            is_pending = is_pending or failure.failure is Failure.PENDING
            passing = {Failure.PENDING, Failure.UNREACHABLE, Failure.BUSY}
            pause = wait_for_approval(None, failure.retry_after)
            if not is_pending or failure.failure not in passing:
                raise
            if at_most is not None:
                if waited >= at_most:
                    raise
                pause = min(pause, at_most - waited)
            wait(pause, failure)
            waited += pause
