"""What happens to a node when its processes are killed, replaced or stopped."""

import itertools
import json
import os
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from doorward.demo.mqtt import MqttClient, NotConnected
from iam.errors import Kind, Refused
from iam.public_keys import SigningKey
from tests.journey.conftest import RunningNode

_NUMBERS = itertools.count()


@pytest.fixture
def lone(scratch: Path) -> Iterator[RunningNode]:
    """A node of a test's own."""
    running = RunningNode(scratch / f"lone-{next(_NUMBERS)}").start()
    yield running
    if running.process is not None and running.process.poll() is None:
        running.stop()


def children(node: RunningNode, word: str) -> list[psutil.Process]:
    assert node.process is not None
    found = []
    for process in psutil.Process(node.process.pid).children(recursive=True):
        try:
            if word in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def until(holds: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except (Refused, NotConnected, OSError):
            pass
        time.sleep(0.1)
    raise AssertionError(what)


def group_is_there(node: RunningNode, name: str) -> bool:
    return bool(node.admin().request("GET", f"/api/v1/iam/groups/{name}")["name"] == name)


def test_after_kill_9_of_the_supervisor_a_start_finds_everything(lone: RunningNode) -> None:
    lone.admin().request("POST", "/api/v1/iam/groups", {"name": "acme"})
    serial = json.loads(
        lone.command("device", "bootstrap", "--id", "m-1", "--out", str(lone.data / "m"), "--json").stdout
    )
    root = lone.root.read_bytes()
    lone.kill()
    lone.start()
    assert lone.root.read_bytes() == root
    assert group_is_there(lone, "acme")
    assert serial["deviceIdentifier"] == "m-1"
    assert json.loads(lone.command("check", "--json").stdout)["holds"]


@pytest.mark.parametrize("word", ["doorward worker", "postgres -D", "nats-server"])
def test_after_kill_9_of_a_part_the_node_comes_back_by_itself(lone: RunningNode, word: str) -> None:
    lone.admin().request("POST", "/api/v1/iam/groups", {"name": "acme"})
    victims = children(lone, word)
    assert victims, [process.cmdline() for process in children(lone, "")]
    victims[0].kill()
    until(lambda: group_is_there(lone, "acme"), 20, "the API did not come back")
    until(lambda: json.loads(lone.command("check", "--json", check=False).stdout)["holds"], 20, "not whole again")
    key = SigningKey(ec.generate_private_key(ec.SECP256R1()))
    admin = lone.admin()
    admin.request("POST", "/api/v1/iam/groups/acme/roles", {"name": "gateway"})
    registered = admin.register(key, {"name": "gw", "type": "gateway", "group": "acme", "role": "gateway"})
    token = admin.prove(key)["token"]
    trust = ssl.create_default_context(cafile=str(lone.root))

    def connects() -> bool:
        place = lone.place(lone.mqtt_password_port, trust)
        MqttClient(place, registered["identity_id"], password=token).connect().close()
        return True

    until(connects, 20, "MQTT did not come back")


def test_ctrl_c_stops_everything(lone: RunningNode) -> None:
    assert lone.process is not None
    processes = psutil.Process(lone.process.pid).children(recursive=True)
    assert len(processes) > 4
    assert lone.stop() == 0
    _, alive = psutil.wait_procs(processes, 10)
    assert alive == []


def test_workers_are_replaced_one_by_one_while_requests_go_on(lone: RunningNode) -> None:
    admin = lone.admin()
    before = {process.pid for process in children(lone, "doorward worker")}
    assert len(before) == 2
    assert lone.process is not None
    os.kill(lone.process.pid, signal.SIGHUP)

    def replaced() -> bool:
        assert admin.request("GET", "/api/v1/iam/token/info")["name"] == "root"
        now = {process.pid for process in children(lone, "doorward worker")}
        return not now & before and len(now) == 2

    deadline = time.monotonic() + 40
    while not replaced():
        assert time.monotonic() < deadline, "the workers were not replaced"


def test_a_second_node_on_the_same_folder_is_refused(lone: RunningNode) -> None:
    second = lone.command("serve", check=False)
    assert second.returncode == 1
    assert "is in use by another doorward" in second.stderr


def test_an_unknown_key_of_the_configuration_is_refused_with_the_nearest(lone: RunningNode, tmp_path: Path) -> None:
    file = tmp_path / "doorward.toml"
    file.write_text("[node]\nworkerz = 3\n")
    found = lone.command("check", "--config", str(file), check=False)
    assert found.returncode == 1
    assert "did you mean node.workers?" in found.stderr


def test_with_nats_gone_rest_works_on_and_a_revocation_still_reaches_every_worker(lone: RunningNode) -> None:
    admin, victim = lone.admin(), lone.admin(anew=True)
    brokers = children(lone, "nats-server")
    assert len(brokers) == 2
    for broker in brokers:
        broker.suspend()
    try:
        for _ in range(10):  # each request is a connection of its own, so both workers have the session in memory
            assert victim.request("GET", "/api/v1/iam/token/info")["name"] == "root"
        victim.request("POST", "/api/v1/iam/logout")
        ended = time.monotonic()
        last_believed = ended
        refusals: set[Kind] = set()
        while time.monotonic() - ended < 7:
            try:
                victim.request("GET", "/api/v1/iam/token/info")
            except Refused as refusal:
                refusals.add(refusal.kind)
            else:
                last_believed = time.monotonic()
            time.sleep(0.02)
        assert last_believed - ended < 5
        assert refusals == {Kind.UNAUTHENTICATED}
        assert admin.request("POST", "/api/v1/iam/groups", {"name": "made-without-nats"})["status"] == "active"
    finally:
        for broker in brokers:
            broker.resume()
