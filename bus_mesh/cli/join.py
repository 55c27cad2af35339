"""`busmesh agent --join`: the settings and the identity of a machine that has a token, before its agent starts."""

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bus_mesh.cli import show
from bus_mesh.cli.problem import Problem, usage

if TYPE_CHECKING:
    from bus_mesh.identity.enrolment import Token

_STARTER: Final = """\
# A node of the mesh {mesh}, admitted by token. Paths are relative to this file. Start it: busmesh agent -c {path}
mesh: {mesh}
node: {node}
bus: {bus}
identity: identity
socket: agent.sock
http: 127.0.0.1:9465
state: state
# Who may speak as what; without an entry only this agent's own user and root may.
apps: {{}}
#  web: {{user: web}}
# Processes that the agent runs itself.
services: {{}}
#  orders: {{command: [python, -m, orders], replicas: 2}}
"""


def joined(text: str, config: Path | None, folder: Path | None) -> Path:
    """Have this machine be the node of a token, and return its node.yaml; where it is already, nothing is asked.

    `config` is that file, which is written where there is none; without it, it is `folder`/node.yaml. Raises Problem,
    JoinFailed or EnrolmentRefused.
    """
    from bus_mesh.agent.join import join
    from bus_mesh.cli.home import private_folder, write_new

    token = read(sys.stdin.readline() if text == "-" else text)
    if config is None:
        if folder is None:
            raise usage("there is no place for the node", "--join writes its identity", "add --state DIR, or -c FILE")
        config = folder.absolute() / "node.yaml"
    identity = _identity(token, config)
    if (identity / "node.key").exists():
        _same_node(token, identity)
        return config
    private_folder(identity.parent)
    asyncio.run(join(token, identity))
    if not config.exists():
        write_new(config, starter(token, config, user=(identity / "bus.creds").exists()).encode())
    show.say(f"admitted as {token.node} of mesh {token.mesh}: {identity}")
    return config


def read(text: str) -> "Token":
    """Return the token that a line holds; raise Problem, which repeats none of it."""
    from bus_mesh.identity.enrolment import BadToken, Token

    try:
        return Token.parse(text)
    except BadToken as error:
        raise usage(str(error), "nothing was asked, and nothing written", "busmesh token create NODE") from None


def starter(token: "Token", path: Path, *, user: bool) -> str:
    """Return a node.yaml to start from."""
    bus: dict[str, object] = {"url": list(token.urls)}
    if user:
        bus["credentials"] = "identity/bus.creds"
    if token.ca:
        bus["tls"] = {"ca": "identity/ca.pem", "first": token.tls_first}
    return _STARTER.format(mesh=token.mesh, node=token.node, path=path, bus=json.dumps(bus))


def _identity(token: "Token", config: Path) -> Path:
    """Return where the identity belongs, once it is clear that these settings are the token's node's."""
    from bus_mesh.config import load_node

    if not config.exists():
        return config.absolute().parent / "identity"
    said = load_node(config)
    if (said.mesh, said.node) != (token.mesh, token.node):
        raise Problem(
            f"this token admits {token.node} of mesh {token.mesh}",
            f"{config} is of {said.node} of mesh {said.mesh}",
            f"busmesh token create {said.node}, or name another file with -c",
        )
    return said.identity


def _same_node(token: "Token", identity: Path) -> None:
    from bus_mesh import clock
    from bus_mesh.identity.certificate import verify_chain
    from bus_mesh.identity.enrolment import fingerprint

    root = (identity / "root.pub").read_bytes()
    held = verify_chain((identity / "node.chain").read_bytes(), token.mesh, root, clock.wall_us())
    if held.node != token.node or fingerprint(root) != token.root:
        raise Problem(
            f"{identity} holds the identity of {held.node} already, and the token admits {token.node}",
            "an identity is never overwritten",
            "another --state or -c, or move that folder away",
        )
    show.say(f"this machine is {held.node} already: the token was not used")
