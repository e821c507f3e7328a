"""The embedded hub's budgets: what clients store cannot starve Doorward's own events."""

import asyncio
import json
import ssl
from pathlib import Path

import nats
import pytest

from callout.nkeys import SigningKey
from doorward.embedded import nats_config
from doorward.embedded.nats_config import (
    APP_BUDGET,
    DOORWARD_BUDGET,
    STORE,
    Callout,
    NatsListen,
    NatsUser,
    ServerTls,
    Shared,
    StaticUsers,
    render_hub,
)
from tests.callout.brokers import ISSUER_SEED, Anchors, free_port
from tests.callout.conftest import NATS_SERVER


async def test_a_full_account_of_clients_leaves_ours_its_own(
    anchors: Anchors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a small budget for APP: a client of it fills that, and the bus still stores."""
    monkeypatch.setattr(nats_config, "APP_BUDGET", {**APP_BUDGET, "max_file": 1024 * 1024})
    users = StaticUsers(*(NatsUser(name, f"{name}-password") for name in ("callout", "bus", "sys", "l1", "l2", "l3")))
    ports = [free_port() for _ in range(5)]
    listen = NatsListen("127.0.0.1", ports[0], ports[1], ports[2], ports[3], ports[4])
    issuer = Callout(SigningKey.from_seed(ISSUER_SEED).public)
    shared = Shared(listen, ServerTls(anchors.certificate, anchors.key), issuer, users)
    text = render_hub(shared, storage=tmp_path / "store", log=tmp_path / "log")
    configuration = tmp_path / "hub.conf"
    configuration.write_text(
        text.replace("  APP: {", '  APP: {\n    users: [ { user: "app", password: "app-password" } ]').replace(
            "auth_users: [", 'auth_users: [ "app"'
        )
    )
    process = await asyncio.create_subprocess_exec(NATS_SERVER, "-c", configuration)
    try:
        trust = ssl.create_default_context(cafile=str(anchors.authority))
        url = f"tls://127.0.0.1:{ports[0]}"
        options = {"tls": trust, "max_reconnect_attempts": 50, "reconnect_time_wait": 0.1}
        client = await nats.connect(url, user="app", password="app-password", **options)
        bus = await nats.connect(url, user="bus", password="bus-password", **options)
        stored = client.jetstream()
        await stored.add_stream(name="SESSION", subjects=["s"])
        with pytest.raises(nats.errors.Error, match=r"resource limits|maximum bytes"):
            for _ in range(64):
                await stored.publish("s", b"x" * 32 * 1024)
        await bus.jetstream().add_stream(name="EVENTS", subjects=["e"])
        assert (await bus.jetstream().publish("e", b"x")).seq == 1
        limits = json.loads((await bus.request("$JS.API.INFO", b"")).data)["limits"]
        assert limits["max_storage"] == DOORWARD_BUDGET["max_file"]
        await client.close()
        await bus.close()
    finally:
        process.terminate()
        await process.wait()


def test_the_budgets_fit_into_the_store() -> None:
    assert APP_BUDGET["max_file"] + DOORWARD_BUDGET["max_file"] <= STORE["max_file_store"]
    assert APP_BUDGET["max_mem"] + DOORWARD_BUDGET["max_mem"] <= STORE["max_memory_store"]
