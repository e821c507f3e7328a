"""One worker process: it listens beside its siblings, answers brokers, and leaves without dropping anybody.

It starts together with the other parts of the node and waits for them, says that it is ready when it listens and can
answer brokers, and from then on every second that its event loop still turns. On SIGTERM it stops in the reverse order:
no more questions of brokers, no more connections, then what is under way.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web

from doorward.addresses import Addresses, read_addresses
from doorward.app import App, build, run_background
from doorward.clock import utc_now
from doorward.config import Configuration
from doorward.keys import random_bytes
from doorward.listener import Listener, ListenerLimits, listening_sockets, serve_https
from doorward.plain import PlainListener, serve_http
from doorward.preparation import server_certificate_files
from doorward.tls import ServerIdentity, ServerIdentityError, ServerTLS
from iam.errors import Refused
from iam.responses import Speech

READY_VARIABLE = "DOORWARD_READY_FD"
_PARTS_SECONDS = 60.0
_LOOK_SECONDS = 0.02
_BROKER_SECONDS = 5.0
_GRACE_SECONDS = 10.0
_CERTIFICATE_SECONDS = 5.0
_SIGN_OF_LIFE_SECONDS = 1.0

_log = logging.getLogger("doorward.worker")


def run_worker(configuration: Configuration) -> None:
    """Run a worker until SIGTERM or SIGINT."""
    uvloop.run(_work(configuration))


async def _work(configuration: Configuration) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    app = await build(configuration, await _addresses(configuration), utc_now, random_bytes)
    certificates = CertificateFiles(*server_certificate_files(configuration.node.data))
    api_tls = ServerTLS(certificates.read(), ask_client_certificate=False)
    est_tls = ServerTLS(certificates.read(), ask_client_certificate=True)
    app.bus.start()
    answering = asyncio.create_task(app.broker.start())
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(answering), _BROKER_SECONDS)
    api, est = configuration.api, configuration.est
    limits = ListenerLimits(max_handshakes_per_address=est.handshakes_per_address)
    runners = [await _runner(app, app.api_routes), await _runner(app, app.est_routes)]
    listeners: list[Listener | PlainListener] = [
        await serve_https(
            runners[0], listening_sockets(api.host, api.port), api_tls, limits=limits, speech=Speech.PROBLEM
        ),
        await serve_https(runners[1], listening_sockets(est.host, est.port), est_tls, limits=limits),
    ]
    published = configuration.publication
    if published.enabled:
        runners.append(await _runner(app, app.publication_routes))
        sockets = listening_sockets(published.host, published.port)
        listeners.append(await serve_http(runners[-1], sockets, limits=limits))
    gc.collect()
    gc.freeze()  # what the worker is made of stays as long as it lives: no later collection looks through it again
    background = asyncio.create_task(run_background(app))
    renewing = asyncio.create_task(certificates.follow([api_tls, est_tls]))
    living = asyncio.create_task(_say_ready_and_live())
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait({waiting, background}, return_when=asyncio.FIRST_COMPLETED)
    if background.done() and not stopping.is_set():
        _log.error("a task of the worker ended", exc_info=background.exception())
    await _stop(app, answering, listeners, [background, renewing, waiting, living])
    for runner in runners:
        await runner.cleanup()


async def _addresses(configuration: Configuration) -> Addresses:
    """Return the node's addresses, waiting for them: workers start while the parts of the node still do."""
    deadline = asyncio.get_running_loop().time() + _PARTS_SECONDS
    while True:
        try:
            return read_addresses(configuration)
        except Refused:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(_LOOK_SECONDS)


async def _stop(
    app: App,
    answering: "asyncio.Task[None]",
    listeners: list[Listener | PlainListener],
    tasks: "list[asyncio.Task[Any]]",
) -> None:
    answering.cancel()
    await app.broker.stop()
    await asyncio.gather(*(listener.close(grace_seconds=_GRACE_SECONDS) for listener in listeners))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await app.bus.stop()
    await app.pool.close()
    app.passwords.close()


async def _runner(app: App, routes: object) -> web.AppRunner:
    runner = web.AppRunner(app.guard.application(routes), access_log=None)  # type: ignore[arg-type]
    await runner.setup()
    return runner


async def _say_ready_and_live() -> None:
    """Tell the supervisor, if there is one, that we are ready, and then that we live, until cancelled."""
    named = os.environ.pop(READY_VARIABLE, None)
    if named is None:
        return
    descriptor = int(named)
    os.set_blocking(descriptor, False)  # a supervisor that does not read holds nobody up
    os.write(descriptor, b"ready\n")
    while True:
        await asyncio.sleep(_SIGN_OF_LIFE_SECONDS)
        with contextlib.suppress(OSError):
            os.write(descriptor, b".")


class CertificateFiles:
    """The certificate and key of our listeners, as the supervisor writes and renews them."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._read_at = 0

    def read(self) -> ServerIdentity:
        """Return what the files hold now; raise `ServerIdentityError` if they do not belong together."""
        written_at = self._certificate.stat().st_mtime_ns
        identity = ServerIdentity.from_pem(self._certificate.read_bytes(), self._key.read_bytes())
        self._read_at = written_at
        return identity

    async def follow(self, listeners: list[ServerTLS]) -> None:
        """Give the listeners each renewed certificate; connections that are open keep theirs."""
        while True:
            await asyncio.sleep(_CERTIFICATE_SECONDS)
            try:
                if self._certificate.stat().st_mtime_ns == self._read_at:
                    continue
                identity = self.read()
            except (OSError, ServerIdentityError) as error:
                _log.warning("the renewed certificate cannot be used yet: %s", error)
                continue
            for listener in listeners:
                listener.replace(identity)
            _log.info("a renewed certificate is served, valid until %s", identity.not_after)
