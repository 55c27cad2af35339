"""What `busmesh up` puts into its home: a mesh, two nodes and a policy agent, their settings, and policy for the demo.

<home>/up.lock  up.json         held while it runs; what runs where
<home>/policy/                  the first policy: what is in force later is in the policy agent's store
<home>/nats/                    the keys that say who may use the bus
<home>/bus/                     the nats-server: its configuration (written anew at every start), certificate, log
<home>/control/                 the policy agent: identity, policy.yaml (written anew at every start), state
<home>/node-a/  node-b/         identity, node.yaml (written anew at every start), state, agent.sock
<home>/logs/                    what the agents say
"""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from bus_mesh.cli.home import MeshHome, private_folder, replace, write_new
from bus_mesh.cli.nats_home import CA_FILE, CREDENTIALS, NatsHome
from bus_mesh.cli.problem import Problem
from bus_mesh.control.nats_config import ServerSettings

MESH: Final = "dev"
NODES: Final = ("node-a", "node-b")
CONTROL: Final = "control"
OUTSIDE: Final = "outside.creds"
"""Beside a node.yaml: its agent's user for plain services of NATS."""
"""The node of the policy agent: it serves nothing and calls nobody."""
LOOPBACK: Final = "127.0.0.1"
CALLER: Final = "cli"
"""What the command line speaks as."""
SOCKET_PATH_BYTES: Final = 107
"""The longest path that a Unix socket may have (unix(7), less the closing zero)."""

DEMO_POLICY: Final = """\
# Who may call whom in the shop. Change it, then: busmesh policy apply -f THIS-FILE
kind: Service
name: orders
access:
  allow:
    - {from: [web], methods: [get, create]}
    - {from: [cli], methods: ["*"]}
---
kind: Service
name: stock
access:
  allow:
    - {from: [orders], methods: [reserve]}
    - {from: [cli], methods: ["*"]}
"""
MESH_POLICY: Final = """\
# What no document allows is denied.
kind: Mesh
access: {default: deny}
"""


class Wanted(NamedTuple):
    """What the command line asks for. `load` is in calls a second; 0 for none."""

    demo: bool
    load: float
    serve: Sequence[str]
    call_as: Sequence[str]
    policy: Sequence[Path]


class Node(NamedTuple):
    """One of the two nodes: `http` is the port of its metrics on loopback."""

    name: str
    folder: Path
    socket: Path
    http: int

    @property
    def config(self) -> Path:
        """Its node.yaml."""
        return self.folder / "node.yaml"

    @property
    def identity(self) -> Path:
        """The folder of its key and certificate."""
        return self.folder / "identity"


def services(wanted: Wanted, node: str) -> dict[str, dict[str, Any]]:
    """Return the `services:` of a node: the shop on both, its customers on the first."""
    if not wanted.demo:
        return {}
    found: dict[str, dict[str, Any]] = {"stock": _demo("stock"), "orders": _demo("orders", replicas=2)}
    if node == NODES[0] and wanted.load > 0:
        found["web"] = _demo("web", env={"SHOP_RATE": f"{wanted.load:g}"}, ready="started")
    return found


def instances(wanted: Wanted) -> dict[tuple[str, str], int]:
    """Return how many instances each (service, node) has once all is up; `web` serves nothing."""
    return {
        (service, node): entry.get("replicas", 1)
        for node in NODES
        for service, entry in services(wanted, node).items()
        if service != "web"
    }


def _demo(name: str, **more: Any) -> dict[str, Any]:
    return {"command": [sys.executable, "-m", f"bus_mesh.demo.{name}"], "restart": "always", **more}


def prepare(home: Path, wanted: Wanted, folder_of_sockets: Path | None, ports: Sequence[int]) -> list[Node]:
    """Make what is not there yet, renew certificates and users that end soon, and return the two nodes."""
    mesh = MeshHome(home)
    broker = NatsHome(mesh)
    if not mesh.exists:
        mesh.init(MESH)
    if not broker.exists:
        broker.make()
    _write_policy(home / "policy", wanted)
    for name in ("logs", CONTROL):
        private_folder(home / name)
    _admit(broker, CONTROL, home / CONTROL / "identity")
    serve = {*wanted.serve, *(("orders", "stock") if wanted.demo else ())}
    call_as = {CALLER, *wanted.call_as, *serve, *(("web",) if wanted.demo else ())}
    nodes = []
    for name, port in zip(NODES, ports, strict=True):
        path = (folder_of_sockets or home) / name / "agent.sock"
        nodes.append(Node(name, home / name, path, port))
        for folder in {home / name, path.parent}:
            private_folder(folder)
            folder.chmod(0o750)
        path.unlink(missing_ok=True)  # left by one that was killed; the lock says that nobody listens there
        _admit(broker, name, nodes[-1].identity, serve, call_as)
    return nodes


def _admit(
    broker: NatsHome, node: str, identity: Path, serve: Set[str] = frozenset(), call_as: Set[str] = frozenset()
) -> None:
    if (identity / "node.key").exists():
        broker.home.renew(node, serve, call_as, identity)
    else:
        broker.home.admit(node, serve, call_as, identity)
    broker.renew(node, serve, call_as, identity, policy_agent=node == CONTROL)


def write_server(home: Path) -> Path:
    """Write the files of the nats-server, which takes a free port of loopback, and return its configuration."""
    # No port for statistics: it asks nobody who they are.
    settings = ServerSettings(LOOPBACK, -1)
    return NatsHome(MeshHome(home)).write_server(home / "bus", (LOOPBACK, "localhost"), settings)


def note_address(home: Path, bus: str) -> None:
    """Keep where the bus listens, so that a node that is admitted by hand is told."""
    NatsHome(MeshHome(home)).note_address(bus)


def _way_in(bus: str) -> dict[str, Any]:
    return {
        "url": bus,
        "credentials": f"identity/{CREDENTIALS}",
        "tls": {"ca": f"identity/{CA_FILE}"},
    }


def write_policy_settings(home: Path, bus: str, port: int) -> Path:
    """Write the policy.yaml of the policy agent, now that the bus listens at `bus`, and return where it is."""
    settings = {
        "mesh": MeshHome(home).mesh,
        "node": CONTROL,
        "bus": _way_in(bus),
        "identity": "identity",
        "signer": str(home),
        "issuer": str(home),
        "users": str(home / "nats"),
        "state": "state",
        "initial": str(home / "policy"),
        "http": f"127.0.0.1:{port}",
        "log": {"format": "json"},
    }
    return _write(home / CONTROL / "policy.yaml", settings)


def write_settings(home: Path, node: Node, wanted: Wanted, bus: str) -> None:
    """Write the node.yaml of a node, now that the bus listens at `bus`; with a way out where it has a user for it."""
    settings = {
        "mesh": MeshHome(home).mesh,
        "node": node.name,
        "bus": _way_in(bus),
        "identity": "identity",
        "socket": str(node.socket),
        "http": f"127.0.0.1:{node.http}",
        "state": "state",
        "log": {"format": "json"},
        "services": services(wanted, node.name),
    }
    if (node.config.parent / OUTSIDE).exists():
        settings["micro"] = {"credentials": OUTSIDE}
    _write(node.config, settings)


def _write(path: Path, settings: dict[str, Any]) -> Path:
    text = yaml.safe_dump(settings, sort_keys=False)
    replace(path, f"# Written by `busmesh up` at every start; changes here are lost.\n{text}".encode())
    return path


def _write_policy(folder: Path, wanted: Wanted) -> None:
    private_folder(folder)
    ours = {"mesh.yaml": MESH_POLICY} | ({"demo.yaml": DEMO_POLICY} if wanted.demo else {})
    for name, text in ours.items():
        if not (folder / name).exists():
            write_new(folder / name, text.encode())
    for given in wanted.policy:
        if not given.exists():
            raise Problem(f"{given}: no such file or folder", "--policy takes a YAML file or a folder of them")
        for path in sorted(given.glob("*.y*ml")) if given.is_dir() else [given]:
            shutil.copyfile(path, folder / path.name)


def sockets_elsewhere(home: Path) -> Path | None:
    """Return a short private folder for the sockets if their paths under `home` would be too long, else None."""
    longest = max(len(os.fsencode(home / name / "agent.sock")) for name in NODES)
    if longest <= SOCKET_PATH_BYTES:
        return None
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    base = runtime if runtime and len(os.fsencode(runtime)) < 60 and Path(runtime).is_dir() else "/tmp"
    return Path(tempfile.mkdtemp(prefix="busmesh-", dir=base))  # mode 0700


def reserve_port() -> socket.socket:
    """Return a socket that keeps a free port of loopback for one of our agents.

    It is bound and never listens, so a listener with SO_REUSEADDR (every HTTP server of Python) may take the same port,
    again after a crash too, while the kernel hands the port to nobody who asks for any.
    """
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", 0))
    return kept
