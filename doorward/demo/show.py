"""How the demo is shown: each step as it happens, then a table of what was proved and how long it took."""

import asyncio
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from doorward.commands.local import local_app, root_token
from doorward.commands.printing import print_json
from doorward.config import Configuration
from doorward.demo.journey import Bootstrap, Journey, Node, NotProved
from doorward.demo.mqtt import NotConnected
from doorward.demo.standing import NoAnswer
from doorward.preparation import root_file
from est.client import EstFailure
from iam.errors import Kind, Refused

_TABLE_WIDTH = 110


def run_demo(configuration: Configuration, *, as_json: bool) -> int:
    """Run the journey against the node of this data folder; return 0 if every step was proved."""
    if not configuration.embeds_nats:
        raise Refused(Kind.INVALID, "The demo runs against a node with its own nats-server.")
    console = Console(stderr=as_json, width=_TABLE_WIDTH)
    console.print("[bold]Doorward, from nothing to a revoked certificate[/bold]")
    with tempfile.TemporaryDirectory(prefix="doorward-demo-") as folder:
        journey = Journey(_node(configuration), lambda device: _bootstrap(configuration, device), Path(folder))
        rows: list[tuple[str, str, float]] = []
        failed = None
        try:
            for step in journey.steps:
                with console.status(step.title):
                    began = time.monotonic()
                    proved = step.run()
                rows.append((step.title, proved, time.monotonic() - began))
                console.print(f"[green]✓[/green] {step.title}")
        except (NotProved, NotConnected, NoAnswer, EstFailure, Refused) as error:
            failed = f"{step.title}: {error}"
            console.print(f"[red]✗[/red] {failed}")
        finally:
            journey.close()
    if as_json:
        steps = [{"step": title, "proved": proved, "seconds": round(took, 3)} for title, proved, took in rows]
        print_json({"steps": steps, "failed": failed})
    else:
        console.print(_table(rows))
    return 1 if failed else 0


def _table(rows: list[tuple[str, str, float]]) -> Table:
    table = Table("Step", "What was proved", title="What happened")
    table.add_column("Time", justify="right")
    for title, proved, took in rows:
        table.add_row(title, proved, f"{took * 1000:.0f} ms")
    return table


def _node(configuration: Configuration) -> Node:
    nats, est = configuration.nats, configuration.est
    return Node(
        api=configuration.public_url,
        est=f"https://{est.host}:{est.port}",
        mqtt_host=nats.host,
        mqtt_certificate_port=nats.mqtt_certificate_port,
        mqtt_password_port=nats.mqtt_password_port,
        root=root_file(configuration.node.data),
        token=asyncio.run(root_token(configuration)).token,
    )


def _bootstrap(configuration: Configuration, device: str) -> Bootstrap:
    async def make() -> Bootstrap:
        async with local_app(configuration) as app:
            credential = await app.certificates.issue_bootstrap(device, actor="demo")
            return Bootstrap(credential.chain, credential.private_key)

    return asyncio.run(make())
