"""The parts of an enrolment by themselves, in one process: what the CPU of a worker goes into.

The whole is `EstService.enrol` with its statement in PostgreSQL, as a worker runs it for a device that is new; the
parts are the same functions that it calls. What is left of the whole is the statement: asyncpg, the pool, the facts.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import islice

from bench.measuring import median_cpu
from ca.inventory import AuthorityKind
from ca.issue import SERIAL_BYTES, device
from certs.csr import decode_base64_request, parse_request
from certs.names import device_identifier
from certs.pkcs7 import certs_only
from doorward.app import App
from doorward.clock import utc_now
from doorward.keys import random_bytes
from est.codec import encode_base64
from est.rules import judge_peer

_ROUNDS = 5


async def measure_parts(
    app: App, label: str, chain: Sequence[bytes], requests: Iterator[bytes], each: int
) -> dict[str, float]:
    """Return the CPU of each part in microseconds, which together are the whole.

    Args:
        label: An enrolment profile that takes `requests` from whoever presents `chain`.
        requests: Of new devices, in base64.
    """
    template = app.authorities.template(app.authorities.current(AuthorityKind.ISSUING), "device")
    anchors = (app.authorities.current(AuthorityKind.FACTORY).anchor,)
    body = next(requests)
    request = parse_request(decode_base64_request(body))
    holder = device(device_identifier("meter-001"), request.spki_der)
    issued = template.issue(holder, utc_now(), random_bytes(SERIAL_BYTES))

    parts = {
        "chain of the bootstrap certificate": lambda: judge_peer(chain, anchors, utc_now()),
        "request: base64, DER, its signature": lambda: parse_request(decode_base64_request(body)),
        "issue: encode, sign, read back, compare": lambda: template.issue(
            holder, utc_now(), random_bytes(SERIAL_BYTES)
        ),
        "answer: PKCS #7, base64": lambda: encode_base64(certs_only([issued.der])),
    }
    found = {name: median_cpu(part, each) for name, part in parts.items()}
    whole = await median_enrolment(app, label, chain, requests, each)
    found["statement: asyncpg, pool, facts"] = whole - sum(found.values())
    return found


async def median_enrolment(app: App, label: str, chain: Sequence[bytes], requests: Iterator[bytes], each: int) -> float:
    """Return the CPU of an enrolment without TLS and HTTP, in microseconds."""
    rounds = []
    for _ in range(_ROUNDS):
        bodies = list(islice(requests, each))
        began = time.process_time()
        for body in bodies:
            await app.enrolment.enrol(label, chain, body)
        rounds.append((time.process_time() - began) / each * 1e6)
    return statistics.median(rounds)
