"""What a person gets who gives an agent or `busmesh up` what it cannot use: an exit code, the reason, the way out."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from mesh_world import BUSMESH, World, until

from bus_mesh import clock
from bus_mesh.cli.home import MeshHome
from bus_mesh.identity.certificate import certify_node
from bus_mesh.identity.keys import NodeKey

pytestmark = pytest.mark.timeout(30)
HOUR_US = 3_600_000_000


class Wrong:
    """A node that would start, and what its agent says when something about it is wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = MeshHome(folder / "home")
        self.home.init("test")
        self.home.admit("node-a", ["ledger"], ["tester"], folder / "identity")
        (folder / "policy").mkdir()
        self.settings = {
            "mesh": "test",
            "node": "node-a",
            "bus": {"url": "nats://127.0.0.1:1"},
            "http": "off",
            "socket": "agent.sock",
            "state": "state",
            "policy_dir": "policy",
        }

    @property
    def file(self) -> Path:
        return self.folder / "node.yaml"

    def agent(self) -> subprocess.CompletedProcess[str]:
        """Run the agent until it has given up."""
        if not self.file.exists():
            self.file.write_text(yaml.safe_dump(self.settings))
        command = [*BUSMESH, "agent", "-c", str(self.file)]
        return subprocess.run(command, capture_output=True, text=True, timeout=20)


@pytest.fixture
def wrong(tmp_path: Path) -> Wrong:
    return Wrong(tmp_path)


def said(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Assert how a command ended, and that what it said is for people."""
    print(done.stderr)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and "itself broke" not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, (word, done.stderr)


def test_an_http_port_that_is_taken_is_named_with_the_way_out(wrong: Wrong) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        wrong.settings["http"] = f"127.0.0.1:{port}"
        done = wrong.agent()

    said(done, 1, f"127.0.0.1:{port}", "http:", "in use")
    assert not (wrong.folder / "agent.sock").exists(), "an agent that does not start leaves no socket"


def test_an_unknown_key_is_named_with_file_line_and_the_right_one(wrong: Wrong) -> None:
    wrong.file.write_text("mesh: test\nnode: node-a\nbus: {url: nats://127.0.0.1:4222}\nsoket: agent.sock\n")

    said(wrong.agent(), 2, f"{wrong.file}:4", "soket", "socket")


def test_yaml_that_is_none_is_named_with_its_line(wrong: Wrong) -> None:
    wrong.file.write_text("mesh: test\nnode: [node-a\n")

    said(wrong.agent(), 2, f"{wrong.file}:")


def test_a_missing_file_is_named(wrong: Wrong) -> None:
    done = subprocess.run([*BUSMESH, "agent", "-c", "/nowhere/node.yaml"], capture_output=True, text=True, timeout=20)

    said(done, 2, "/nowhere/node.yaml")


def test_a_node_without_an_identity_is_told_how_to_get_one(wrong: Wrong) -> None:
    wrong.settings["identity"] = "elsewhere"

    said(wrong.agent(), 2, "elsewhere", "busmesh node add node-a")


def test_an_identity_of_another_node_is_refused_with_both_names(wrong: Wrong) -> None:
    wrong.settings["node"] = "node-b"

    said(wrong.agent(), 2, "node-a", "node-b")


def test_a_key_that_is_not_that_of_the_certificate_is_refused(wrong: Wrong) -> None:
    (wrong.folder / "identity" / "node.key").write_bytes(os.urandom(32))

    said(wrong.agent(), 1, "another key")


def test_a_chain_that_is_none_is_refused(wrong: Wrong) -> None:
    (wrong.folder / "identity" / "node.chain").write_bytes(b"no chain")

    said(wrong.agent(), 1, "MALFORMED")


def test_a_key_file_of_the_wrong_size_is_refused(wrong: Wrong) -> None:
    (wrong.folder / "identity" / "node.key").write_bytes(b"short")

    said(wrong.agent(), 2, "node.key", "5 bytes")


def test_a_root_key_of_the_wrong_size_is_refused(wrong: Wrong) -> None:
    (wrong.folder / "identity" / "root.pub").write_bytes(b"short")

    said(wrong.agent(), 1)


def test_an_identity_of_another_mesh_is_refused(wrong: Wrong, tmp_path: Path) -> None:
    wrong.settings["mesh"] = "other"

    said(wrong.agent(), 1, "other", "test")


def test_an_expired_certificate_is_refused_with_its_date(wrong: Wrong) -> None:
    identity, now = wrong.folder / "identity", clock.wall_us()
    expired = certify_node(
        NodeKey.from_bytes((wrong.home.path / "issuer.key").read_bytes()),
        (wrong.home.path / "issuer.delegation").read_bytes(),
        mesh="test",
        node="node-a",
        key=NodeKey.from_bytes((identity / "node.key").read_bytes()).public,
        serve=frozenset(),
        call_as=frozenset(),
        not_before_us=now - 2 * HOUR_US,
        not_after_us=now - HOUR_US,
        serial="1",
    )
    (identity / "node.chain").write_bytes(expired)

    said(wrong.agent(), 1, "EXPIRED")


def test_a_socket_path_that_is_too_long_is_refused_with_the_limit(wrong: Wrong) -> None:
    wrong.settings["socket"] = f"{'d' * 110}/agent.sock"

    said(wrong.agent(), 2, "107", "socket")


def test_a_file_where_the_socket_should_be_is_left_alone(wrong: Wrong) -> None:
    (wrong.folder / "agent.sock").write_text("precious")

    said(wrong.agent(), 1, "is no socket", "agent.sock")
    assert (wrong.folder / "agent.sock").read_text() == "precious"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("taken"), "kind: Mesh\naccess: {default: deny}\n") as world:
        for name in ("node-a", "node-c"):
            world.node(name, call_as=["tester"])
            world.until_up(name)
        yield world


def test_a_socket_in_use_is_refused_and_its_agent_goes_on(world: World) -> None:
    """And the second agent has not announced itself: to its peers it would have been a new boot of the first."""
    again = [*BUSMESH, "agent", "-c", str(world.nodes["node-a"].folder / "node.yaml")]

    done = subprocess.run(again, capture_output=True, text=True, timeout=20)

    said(done, 1, "an agent listens on", "agent.sock")
    nodes = {row["node"]: row["boot"] for row in world.ask("node-c", "nodes")}
    own = {row["node"]: row["boot"] for row in world.ask("node-a", "nodes")}
    assert nodes == own and set(nodes) == {"node-a", "node-c"}


def test_a_socket_left_by_a_dead_agent_is_taken_over(tmp_path: Path) -> None:
    with World(tmp_path, "kind: Mesh\naccess: {default: deny}\n") as world:
        node = world.node("node-b", call_as=["tester"])
        world.until_up("node-b")
        node.kill()
        assert node.socket.exists(), "kill -9 leaves the socket where it was"
        node.start()
        took = world.until_up("node-b")

    print(f"up again on the same socket after {took:.2f} s")


def up(home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*BUSMESH, "up", "--home", str(home)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, env={**os.environ, **environment})


def server_that_says(path: Path, version: str) -> str:
    path.write_text(f"#!/bin/sh\necho 'nats-server: {version}'\n")
    path.chmod(0o755)
    return str(path)


def test_an_old_nats_server_is_refused_with_the_version_that_is_needed(tmp_path: Path) -> None:
    done = up(tmp_path / "home", BUSMESH_NATS_SERVER=server_that_says(tmp_path / "nats-server", "v2.9.10"))

    said(done, 1, "2.9.10", "2.14.0", "pip install")


def test_a_nats_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    said(up(tmp_path / "home", BUSMESH_NATS_SERVER=str(tmp_path / "none")), 1, "BUSMESH_NATS_SERVER")


def test_a_call_without_an_agent_says_how_to_start_one(tmp_path: Path) -> None:
    command = [*BUSMESH, "call", "orders", "get", "--socket", str(tmp_path / "agent.sock")]

    done = subprocess.run(command, capture_output=True, text=True, timeout=20)

    said(done, 64 + 14, "AGENT_AWAY", "busmesh up --demo")


def test_policy_that_is_wrong_at_sighup_is_said_and_what_was_in_force_stays(world: World) -> None:
    node = world.nodes["node-a"]
    policy = world.folder / "policy" / "policy.yaml"
    policy.write_text("kind: Service\nname: ledger\ntraffic: {timout: 3s}\n")

    os.kill(node.pid, 1)

    until(lambda: "policy not taken up" in node.log, "the agent says what is wrong")
    assert "timeout" in node.log and "Traceback" not in node.log
    world.until_up("node-a")
