"""examples/02_policy, run the way its README says; and what the control plane promises, on real processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest
from test_up import Up, eventually

pytestmark = pytest.mark.timeout(90)
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "02_policy"
FENCE = re.compile(r"^```sh (run|denied|refused)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GET = ("call", "orders", "get", '{"id": "1"}')


@pytest.fixture(scope="module", autouse=True)
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Frozen"]:
    """A shop whose policy agent says nothing from the first test here on.

    Policy is stale after 15 s without a word: they pass while the other tests run on a shop of their own.
    """
    with Up(tmp_path_factory.mktemp("frozen") / "home", "--demo", "--load", "0") as up, Frozen(up) as frozen:
        yield frozen


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("policy") / "home", "--demo") as up:
        yield up


@pytest.fixture
def own_shop(tmp_path: Path) -> Iterator[Up]:
    """A shop whose processes a test may kill."""
    with Up(tmp_path / "home", "--demo") as up:
        yield up


def shell(up: Up, text: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BUSMESH_")}
    environment = {**kept, "PATH": path, "BUSMESH_HOME": str(up.home)}
    return subprocess.run(
        ["bash", "-e", "-c", text], capture_output=True, text=True, timeout=40, cwd=ROOT, env=environment
    )


def test_the_readme_does_what_it_says(shop: Up) -> None:
    said: dict[str, str] = {}
    for kind, text in FENCE.findall((EXAMPLE / "README.md").read_text()):
        done = shell(shop, text)
        if kind == "run":
            assert done.returncode == 0, done.stderr
        else:
            assert done.returncode != 0
        said[kind] = said.get(kind, "") + done.stdout + done.stderr

    assert re.search(r"^web +orders/get +shop-is-closed +\d+$", said["run"], re.MULTILINE)
    assert "web may not call orders/get: shop-is-closed (policy 3)" in said["denied"]
    assert "mistake.yaml:4: acces: unknown key (did you mean access?)" in said["refused"]
    assert "traffic.timeout: 5 has no unit" in said["refused"]
    assert "rollback to 1" in said["run"]


@pytest.mark.alone
def test_a_denial_and_its_end_take_a_second_and_fail_no_call_of_others(shop: Up) -> None:
    """200 calls a second of `cli` go on, while `web` is denied and allowed again; 0 of them fail."""
    load = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "programs" / "steady.py"), "cli", "200"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "BUSMESH_SOCKET": shop.ready["nodes"]["node-b"]["socket"]},
    )
    assert load.stdin is not None
    assert load.stdout is not None
    assert load.stdout.readline() == "calling\n"

    began = time.monotonic()
    denied = shop.busmesh("policy", "apply", "-f", str(EXAMPLE / "deny-web.yaml"), "--wait")
    took = time.monotonic() - began
    assert denied.returncode == 0, denied.stderr
    refused = shop.busmesh(*GET, "--app", "web")
    assert refused.returncode == 64 + 7
    assert "shop-is-closed" in refused.stderr
    assert shop.busmesh("policy", "rollback", "--wait").returncode == 0
    assert shop.busmesh(*GET, "--app", "web").returncode == 0

    out, _ = load.communicate("", timeout=20)
    ended = json.loads(out)
    print(f"applied everywhere in {took:.2f} s, the command's start included; {ended}")
    assert ended["failed"] == 0
    assert ended["calls"] > 200
    assert max(_applied_ms(shop)) < 1000


def _applied_ms(up: Up) -> list[float]:
    """How long each bundle took at each agent, from hearing of it to having it in force."""
    texts = [(up.home / "logs" / f"{node}.log").read_text() for node in ("node-a", "node-b")]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    return [line["took_ms"] for line in lines if line.get("event") == "policy in force"]


def test_calls_and_restarts_need_no_policy_agent_and_its_return_brings_all_in_sync(frozen: "Frozen") -> None:
    up, victim = frozen.up, frozen.up.ready["nodes"]["node-b"]["pid"]
    assert up.busmesh(*GET).returncode == 0
    os.kill(victim, signal.SIGKILL)

    assert eventually(lambda: _pid(up, "node-b") not in (0, victim))
    assert eventually(lambda: _state(up, "node-b") == "stale", 20.0)
    assert _number(up, "node-b") == 1  # from its disk: nobody was there to ask
    assert up.call("orders", "get", '{"id": "1"}', "--socket", up.ready["nodes"]["node-b"]["socket"])
    assert eventually(lambda: _state(up, "node-a") == "stale", 20.0)
    frozen.kill()

    assert eventually(lambda: _state(up, "node-a") == _state(up, "node-b") == "fresh", 20.0)
    assert up.busmesh("policy", "apply", "-f", str(EXAMPLE / "deny-web.yaml"), "--wait").returncode == 0
    assert up.busmesh("status").returncode == 0


class Frozen:
    """A policy agent that says nothing (SIGSTOP) and is then killed: its supervisor starts another only then."""

    def __init__(self, up: Up) -> None:
        self.up = up
        self._process = psutil.Process(up.ready["policy"]["pid"])

    def __enter__(self) -> "Frozen":
        self._process.suspend()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_running():
            self._process.kill()

    def kill(self) -> None:
        self._process.kill()


def _pid(up: Up, node: str) -> int:
    pid: int = json.loads((up.home / "up.json").read_text())["nodes"][node]["pid"]
    return pid


def _ready(up: Up, node: str) -> dict[str, object]:
    try:
        with urllib.request.urlopen(f"{up.ready['nodes'][node]['http']}/readyz", timeout=5) as answer:
            found: dict[str, object] = json.loads(answer.read())
    except OSError:
        return {}
    return found


def _state(up: Up, node: str) -> object:
    return _ready(up, node).get("policy_state")


def _number(up: Up, node: str) -> object:
    return _ready(up, node).get("policy")


def test_a_second_policy_agent_takes_over_when_the_first_is_killed(own_shop: Up) -> None:
    config = own_shop.home / "control" / "policy.yaml"
    second = config.with_name("second.yaml")
    second.write_text(re.sub(r"http: .*", "http: off", config.read_text()))
    command = [sys.executable, "-m", "bus_mesh.cli", "policy-agent", "-c", str(second)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines: list[str] = []
    standing, office = Event(), Event()

    def listen() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if "standing by" in line:
                standing.set()
            if "in office" in line and "another" not in line:
                office.set()

    Thread(target=listen, daemon=True).start()
    try:
        assert standing.wait(15), lines
        for _ in range(20):  # its own supervisor starts the first one again: whoever is quicker gets the lock
            os.kill(json.loads((own_shop.home / "up.json").read_text())["policy"]["pid"], signal.SIGKILL)
            if office.wait(2.0):
                break
            assert eventually(lambda: json.loads((own_shop.home / "up.json").read_text())["policy"]["pid"] != 0)
        assert office.is_set(), lines
        assert own_shop.busmesh("policy", "apply", "-f", str(EXAMPLE / "deny-web.yaml"), "--wait").returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_an_operator_may_what_the_certificate_says(shop: Up) -> None:
    made = shop.busmesh("operator", "add", "eve", "--may", "observe", "--home", str(shop.home))
    assert made.returncode == 0, made.stderr
    refused = shop.busmesh("policy", "rollback", "--operator", "eve")
    assert refused.returncode == 64 + 7
    assert "eve may observe" in refused.stderr

    assert shop.busmesh("operator", "add", "ann", "--may", "policy").returncode == 0
    file = str(EXAMPLE / "audit-web.yaml")
    checked = shop.busmesh("policy", "check", "-f", file, "--live")
    assert checked.returncode == 0
    assert "METHOD_UNKNOWN" not in checked.stdout
    assert shop.busmesh("policy", "apply", "-f", file, "--operator", "ann", "--wait").returncode == 0
    assert "ann" in shop.busmesh("policy", "history").stdout
    assert "Service/orders" in shop.busmesh("get", "policies").stdout
