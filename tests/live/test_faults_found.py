"""What `busmesh check` finds, and what it says to do, when a clock, a certificate or policy really is not as it should.

Nothing is made up: an agent runs by a wrong clock, a certificate ends, the policy agent stands still.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from screens import CLOCK, ENDED, MISSING, STALE, hold
from test_up import BUSMESH, Up, eventually

pytestmark = pytest.mark.timeout(120)
SKEWED = [sys.executable, str(Path(__file__).with_name("skewed_agent.py"))]
LIFE = 30
"""Seconds of the certificate that ends: its node is to be heard first, and in vain to ask for another."""
SHORT = f"from bus_mesh.cli import home; home.NODE_US = {LIFE}_000_000; from bus_mesh.cli.main import run; run()"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("shop") / "home", "--demo", "--load", "0") as up:
        yield up


def checked(up: Up, *options: str) -> str:
    return up.busmesh("check", "-o", "short", *options).stdout


def admit(up: Up, node: str, *command: str) -> Path:
    """Write the identity of a node that follows the policy agent; return the path of its node.yaml."""
    words = [*command, "node", "add", node, "--call-as", "cli", "--home", str(up.home)]
    subprocess.run(words, check=True, capture_output=True, timeout=30)
    file = up.home / node / "node.yaml"
    file.write_text(file.read_text().replace("http: 127.0.0.1:9465", "http: off").replace("policy_dir: policy\n", ""))
    return file


@contextmanager
def agent(file: Path, *command: str) -> Iterator[None]:
    with subprocess.Popen([*command, "agent", "-c", str(file)], stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def in_force(up: Up, node: str) -> int:
    """Return which bundle a node has said that it applied, 0 before that."""
    rows = [json.loads(line) for line in up.busmesh("node", "list", "-o", "json").stdout.splitlines()]
    return next((row["policy"] for row in rows if row["node"] == node), 0)


@contextmanager
def still(process: psutil.Process) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def policy_agent(up: Up) -> psutil.Process:
    (found,) = [one for one in up.family() if "policy-agent" in one.cmdline()]
    return found


def test_policy_that_is_stale_is_found(shop: Up) -> None:
    with still(policy_agent(shop)):
        assert eventually(lambda: checked(shop).count("has heard nothing") == 2, 40), checked(shop)
        hold({STALE: checked(shop)})

    assert eventually(lambda: shop.busmesh("check").returncode == 0, 20), checked(shop)


def test_a_certificate_that_has_ended_is_found_at_its_node_and_the_node_is_missed_by_others(shop: Up) -> None:
    file = admit(shop, "node-e", sys.executable, "-c", SHORT)
    own = "--socket", str(file.parent / "agent.sock")
    with agent(file, *BUSMESH):
        assert eventually(lambda: in_force(shop, "node-e") > 0)
        with still(policy_agent(shop)):  # nobody gives it another in time
            assert eventually(lambda: "has ended" in checked(shop, *own), LIFE + 20), checked(shop, *own)
        # All that it knew of others has ended with their leases, and theirs of it.
        assert eventually(lambda: "answer operators" not in checked(shop, *own), 30), checked(shop, *own)
        assert eventually(lambda: "nothing" not in checked(shop), 30), checked(shop)
        # Its last word may have come between the end of its certificate and that of its user, and is kept for 30 s.
        assert eventually(lambda: "ended" not in checked(shop), 40), checked(shop)
        hold({ENDED: checked(shop, *own), MISSING: checked(shop)})
    gone, never = shop.busmesh_each(("service", "list", "--node", "node-e"), ("service", "list", "--node", "node-x"))
    assert (gone.returncode, never.returncode) == (1, 1)
    assert "no answer from node-e for " in gone.stderr
    assert "there is no node 'node-x'" in never.stderr
    done = shop.busmesh("node", "revoke", "node-e", "--home", str(shop.home))
    assert done.returncode == 0, done.stderr
    assert eventually(lambda: checked(shop) == "", 30), checked(shop)


@pytest.mark.parametrize(("node", "seconds"), [("node-c", 75), ("node-d", 7200)])
def test_a_clock_that_is_wrong_is_found_though_nobody_believes_its_node(shop: Up, node: str, seconds: int) -> None:
    with agent(admit(shop, node, *BUSMESH), *SKEWED, str(seconds)):
        assert eventually(lambda: "clocks differ" in checked(shop), 30), checked(shop)
        text = checked(shop)

    assert f"{node} is " in text
    assert " s ahead\n    hint: set the clock" in text
    if node == "node-c":
        hold({CLOCK: text})
