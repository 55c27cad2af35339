"""A real Prometheus scrapes the agents of a mesh: what it adds up is what was called."""

import asyncio
import json
import shutil
import statistics
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from bus_mesh_sdk import Mesh
from mesh_world import World, program, until

PROMETHEUS, PROMTOOL = shutil.which("prometheus") or "", shutil.which("promtool") or ""
pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.alone,
    pytest.mark.skipif(not PROMETHEUS or not PROMTOOL, reason="Prometheus is not installed (Debian: prometheus)"),
]
POLICY = 'kind: Service\nname: ledger\naccess: {allow: [{from: [tester], methods: ["*"]}]}\n'
SECONDS, RATE, WINDOW = 10, 100, 5
COUNT = "busmesh_{side}_call_duration_seconds_count"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("metrics"), POLICY) as world:
        services = {"ledger": {"command": program("ledger.py", world.folder / "ledger.record")}}
        world.node("node-a", call_as=["tester"])
        world.node("node-b", serve=["ledger"], services=services)
        world.until_up("node-a", {"ledger": 1})
        yield world


@pytest.fixture(autouse=True)
def stopped_processes() -> None:
    """The mesh outlives each test here; the world sees to its end."""


def pages(world: World) -> list[str]:
    """Where each agent shows its metrics, host:port."""
    logs = [[json.loads(line) for line in node.log.splitlines()] for node in world.nodes.values()]
    found = [next(line["http"] for line in reversed(log) if line.get("event") == "agent up") for log in logs]
    return [url.removeprefix("http://") for url in found]


class Prometheus:
    """One that scrapes every second, on a free port."""

    def __init__(self, folder: Path, targets: list[str]) -> None:
        jobs = [{"job_name": "busmesh", "static_configs": [{"targets": targets}]}]
        settings = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs}
        file = folder / "prometheus.yml"
        file.write_text(json.dumps(settings))
        options = (
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--web.listen-address=127.0.0.1:0",
        )
        with (folder / "prometheus.log").open("wb") as log:
            self.process = subprocess.Popen([PROMETHEUS, *options], stdout=log, stderr=log)
        until(lambda: self.port, "Prometheus listens")

    @property
    def port(self) -> int:
        """Where it listens, 0 while it does not."""
        listening = psutil.Process(self.process.pid).net_connections()
        return next((one.laddr.port for one in listening if one.status == "LISTEN"), 0)

    def ask(self, query: str) -> float:
        """The one number that a query comes to; 0 without any."""
        url = f"http://127.0.0.1:{self.port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            result = json.load(answer)["data"]["result"]
        return float(result[0]["value"][1]) if result else 0.0

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


async def load(world: World) -> None:
    """Make calls at an even rate."""
    async with Mesh.connect(app="tester", socket=world.nodes["node-a"].socket) as mesh:
        loop = asyncio.get_running_loop()
        began, calls = loop.time(), []
        for number in range(SECONDS * RATE):
            calls.append(asyncio.create_task(mesh.call("ledger", "echo", {"data": b"x"}, timeout=5.0)))
            await asyncio.sleep(max(0.0, began + (number + 1) / RATE - loop.time()))
        await asyncio.gather(*calls)


async def test_what_prometheus_adds_up_is_what_was_called(world: World, tmp_path: Path) -> None:
    prometheus = await asyncio.to_thread(Prometheus, tmp_path, pages(world))
    ask = prometheus.ask
    try:
        # A counter that begins within the window loses its first step to rate().
        async with Mesh.connect(app="tester", socket=world.nodes["node-a"].socket) as mesh:
            await mesh.call("ledger", "echo", {"data": b"x"}, timeout=5.0)
        client, server = (f"sum({COUNT.format(side=side)}{{service='ledger'}})" for side in ("client", "server"))
        await asyncio.to_thread(until, lambda: ask(client) == ask(server) == 1, "the first call is scraped")
        rate = f"sum(rate({COUNT.format(side='client')}{{service='ledger'}}[{WINDOW}s]))"
        loading, rates = asyncio.create_task(load(world)), []
        await asyncio.sleep(WINDOW + 1.5)  # so that all of the window lies within the load
        while not loading.done():
            rates.append(await asyncio.to_thread(ask, rate))
            await asyncio.sleep(0.3)
        await loading

        for total in (client, server):
            await asyncio.to_thread(until, lambda total=total: ask(total) > SECONDS * RATE, "all is scraped")
            assert await asyncio.to_thread(ask, total) == SECONDS * RATE + 1
        assert statistics.median(rates) == pytest.approx(RATE, rel=0.05), rates
    finally:
        await asyncio.to_thread(prometheus.close)


def test_promtool_finds_nothing_wrong_with_what_an_agent_shows(world: World) -> None:
    for page in pages(world):
        with urllib.request.urlopen(f"http://{page}/metrics", timeout=5) as answer:
            text = answer.read()
        done = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, timeout=30)

        assert (done.returncode, done.stdout + done.stderr) == (0, b""), done.stderr.decode()
