"""`busmesh up` as a user has it: real processes from the first key to the last kill."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.timeout(60)
BUSMESH = [sys.executable, "-m", "bus_mesh.cli"]
START_RATIO = 1.7
"""What a start may take, to what libraries alone take: 1.4 to 1.9 on a machine where READY took 3.1 to 4.3 s."""


class Up:
    """One `busmesh up` that is ready."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        command = [*BUSMESH, "up", "--home", str(home), "-o", "json", *options]
        began = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.took = time.monotonic() - began
        """Seconds from the command to READY."""
        self.ready: dict[str, Any] = json.loads(line)

    def __enter__(self) -> "Up":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def busmesh(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "BUSMESH_HOME": str(self.home)}
        environment.pop("BUSMESH_SOCKET", None)
        return subprocess.run([*BUSMESH, *arguments], capture_output=True, text=True, timeout=30, env=environment)

    def busmesh_each(self, *commands: tuple[str, ...]) -> list[subprocess.CompletedProcess[str]]:
        """Run commands beside each other, for those that change nothing."""
        with ThreadPoolExecutor(len(commands)) as threads:
            return list(threads.map(lambda command: self.busmesh(*command), commands))

    def call(self, *arguments: str) -> Any:
        done = self.busmesh("call", *arguments, "-o", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def family(self) -> list[psutil.Process]:
        """This process and all that descends from it."""
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]


def eventually(fact: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Tell whether `fact` comes true in time."""
    end = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("shop") / "home", "--demo") as up:
        yield up


def test_ready_names_the_bus_the_home_and_both_nodes(shop: Up) -> None:
    assert shop.ready["ready"] is True
    assert shop.ready["bus"].startswith("tls://127.0.0.1:")
    assert shop.ready["home"] == str(shop.home)
    assert set(shop.ready["nodes"]) == {"node-a", "node-b"}
    assert json.loads((shop.home / "up.json").read_text()) == shop.ready


def test_a_call_by_the_command_line_prints_the_order(shop: Up) -> None:
    done = shop.busmesh("call", "orders", "get", '{"id": "1"}')

    order = json.loads(done.stdout)
    assert (done.returncode, order["id"], order["sku"], order["qty"]) == (0, "1", "tea", 1)


def test_a_call_reaches_the_shop_and_its_service_calls_on(shop: Up) -> None:
    made = shop.call("orders", "create", '{"order": {"sku": "tea", "qty": 2}}')

    assert (made["sku"], made["qty"]) == ("tea", 2)


def test_an_error_of_a_service_further_down_arrives_as_itself(shop: Up) -> None:
    done = shop.busmesh("call", "orders", "create", '{"order": {"sku": "tea", "qty": 5000}}')

    assert done.returncode == 64 + 9
    assert "OUT_OF_STOCK" in done.stderr


def test_an_unknown_service_and_an_unknown_method_are_met_with_a_suggestion(shop: Up) -> None:
    service, method = shop.busmesh_each(("call", "order", "get", '{"id": "1"}'), ("call", "orders", "creat", "{}"))

    assert "did you mean orders?" in service.stderr
    assert "did you mean create?" in method.stderr


def test_tables_show_nodes_services_and_instances(shop: Up) -> None:
    done = shop.busmesh_each(("get", "nodes"), ("get", "services"), ("get", "instances"))
    nodes, services, instances = (one.stdout for one in done)

    assert [line.split()[0] for line in nodes.splitlines()] == ["NODE", "node-a", "node-b"]
    assert ["orders", "4", "node-a,node-b"] in [line.split() for line in services.splitlines()]
    assert len(instances.splitlines()) == 1 + 6


def test_a_bench_spreads_its_calls_over_the_instances_of_both_nodes(shop: Up) -> None:
    done = shop.busmesh("bench", "orders", "get", '{"id": "1"}', "--calls", "500", "-o", "json")

    found = json.loads(done.stdout)
    print(f"{found['instances']}, {found['rate']:.0f} calls/s, {found['latency_ms']}")
    assert (done.returncode, found["ok"], found["failed"]) == (0, 500, {})
    assert sorted(name[:6] for name in found["instances"]) == ["node-a", "node-a", "node-b", "node-b"]
    assert all(0.5 <= calls / 125 <= 1.5 for calls in found["instances"].values())


def test_web_calls_at_its_rate_and_the_agent_counts_it(shop: Up) -> None:
    def counted() -> bool:
        with urllib.request.urlopen(shop.ready["nodes"]["node-a"]["http"] + "/metrics") as answer:
            return 'caller="web"' in answer.read().decode()

    assert eventually(counted)


def test_a_second_up_in_the_same_home_is_refused_with_its_process_and_a_way_out(shop: Up) -> None:
    done = subprocess.run([*BUSMESH, "up", "--home", str(shop.home)], capture_output=True, text=True, timeout=30)

    assert done.returncode == 1
    assert f"process {shop.process.pid}" in done.stderr and "--home" in done.stderr


def test_a_killed_agent_comes_back_on_the_same_socket_and_port(tmp_path: Path) -> None:
    with Up(tmp_path / "home", "--demo", "--load", "0") as up:
        before = up.ready["nodes"]["node-b"]
        os.kill(before["pid"], signal.SIGKILL)

        def back() -> bool:
            now = json.loads((up.home / "up.json").read_text())["nodes"]["node-b"]
            return now["pid"] not in (0, before["pid"])

        assert eventually(back)
        after = json.loads((up.home / "up.json").read_text())["nodes"]["node-b"]
        assert (after["socket"], after["http"]) == (before["socket"], before["http"])
        assert eventually(lambda: len(up.busmesh("get", "instances").stdout.splitlines()) == 1 + 6, seconds=30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_of_it_and_exits_with_0(tmp_path: Path, number: signal.Signals) -> None:
    with Up(tmp_path / "home", "--demo") as up:
        family = up.family()
        up.process.send_signal(number)

        assert up.process.wait(timeout=40) == 0
        gone, left = psutil.wait_procs(family, timeout=5)
        assert (len(gone), left) == (len(family), [])
        assert not (up.home / "up.json").exists()


def test_kill_9_leaves_nothing_behind_and_the_same_home_starts_again(tmp_path: Path) -> None:
    with Up(tmp_path / "home", "--demo") as up:
        family = up.family()
        up.process.kill()
        killed = time.monotonic()

        gone, left = psutil.wait_procs(family, timeout=5)
        print(f"{len(family)} processes were gone after {time.monotonic() - killed:.2f} s")
        assert (len(gone), left) == (len(family), [])
    with Up(tmp_path / "home", "--demo", "--load", "0") as again:
        assert again.call("orders", "get", '{"id": "7"}')["id"] == "7"


def test_a_home_too_deep_for_sockets_still_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    with Up(deep) as up:
        socket = up.ready["nodes"]["node-a"]["socket"]

        assert len(socket) < 107
        assert up.busmesh("get", "nodes").returncode == 0
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(timeout=40) == 0
        assert not Path(socket).parent.parent.exists()


def test_a_denial_takes_effect_when_applied_and_heals(shop: Up, tmp_path: Path) -> None:
    get = ("call", "orders", "get", '{"id": "1"}')
    allowing = (shop.home / "policy" / "demo.yaml").read_text()
    policy = tmp_path / "demo.yaml"
    policy.write_text(allowing.replace("from: [cli]", "from: [nobody]"))

    try:
        assert shop.busmesh("policy", "apply", "-f", str(policy), "--wait").returncode == 0
        assert shop.busmesh(*get).returncode == 64 + 7
    finally:
        healed = shop.busmesh("policy", "rollback", "--wait")
    assert healed.returncode == 0
    assert shop.busmesh(*get).returncode == 0


@pytest.mark.alone
def test_the_mesh_is_ready_in_three_seconds_or_as_soon_as_a_slow_machine_lets_it(shop: Up, tmp_path: Path) -> None:
    """The first of up to four starts that is quick enough counts.

    A start is bound by the processors, and what else uses them only adds to it. The first is that of the shop, the
    making of its home included. On a slow machine the libraries of others alone take the mesh's processes so long, and
    the further starts are held to what those took just before.
    """
    starts = [(shop.took, 3.0)]
    while len(starts) < 4 and all(took >= bound for took, bound in starts):
        bound = max(3.0, START_RATIO * seconds_to_load_libraries())
        with Up(tmp_path / "home", "--demo") as up:
            starts.append((up.took, bound))

    print("ready after " + ", ".join(f"{took:.2f} of {bound:.2f} s" for took, bound in starts))
    assert any(took < bound for took, bound in starts)


def seconds_to_load_libraries() -> float:
    """Start nine interpreters at once, about as many as a mesh with its shop has, with the libraries of an agent."""
    load = [sys.executable, "-c", "import cryptography.x509, nats, prometheus_client, pydantic, typer, uvloop, yaml"]
    began = time.monotonic()
    started = [subprocess.Popen(load) for _ in range(9)]
    assert [process.wait() for process in started] == [0] * 9
    return time.monotonic() - began
