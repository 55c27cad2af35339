"""An operator on the command line: who they are, and commands signed by them on their way to the policy agent."""

import asyncio
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgpack

from bus_mesh.cli.ask import OWN_SERVICE, ask
from bus_mesh.cli.problem import Problem

if TYPE_CHECKING:
    from bus_mesh_sdk import Mesh

    from bus_mesh.identity.keys import NodeKey

HEARD_SECONDS: Final = 6.0
"""How long a policy agent may go unheard: it publishes every five seconds."""
LOOK_AGAIN: Final = 0.1
ASK_SECONDS: Final = 15.0
"""How long the policy agent may take; it reads ten thousand rules in under two."""


class Operator:
    """A key and its chain: `<name>.key` and `<name>.chain` of a folder, or the home's first operator."""

    def __init__(self, key: "NodeKey", chain: bytes) -> None:
        self._key = key
        self._chain = chain

    @classmethod
    def read(cls, folder: Path, name: str = "operator") -> "Operator":
        """Return the operator of this name in a folder; raise Problem with what to do."""
        from bus_mesh.identity import document
        from bus_mesh.identity.keys import NodeKey

        file = folder / f"{name}.key"
        try:
            key = NodeKey.from_bytes(file.read_bytes())
            chain = folder / f"{name}.chain"
            delegation = folder / f"{name}.delegation"
            held = chain.read_bytes() if chain.exists() else document.pack_row((delegation.read_bytes(),))
        except (FileNotFoundError, ValueError):
            raise Problem(
                f"{folder} holds no operator {name!r}",
                f"what changes policy is signed by an operator, with {file.name} and its certificate beside it",
                "name the home of the mesh with --home, or ask who holds it for `busmesh operator add`",
            ) from None
        return cls(key, held)

    async def command(self, mesh: "Mesh", verb: str, arguments: dict[str, Any]) -> Any:
        """Have the policy agent carry something out, once, and return its answer."""
        status = await _heard(mesh)
        key = bytes.fromhex(status["policy_agent_key"])
        return await control(
            mesh, verb, {"command": self.sign(status["mesh"], verb, arguments, secrets.token_hex(16), key)}
        )

    def sign(self, mesh: str, verb: str, arguments: dict[str, Any], request: str, target: bytes) -> bytes:
        """Return a command for the process whose epoch key has the id `target`."""
        from bus_mesh import clock
        from bus_mesh.identity.command import sign_command

        return sign_command(
            self._key,
            self._chain,
            mesh=mesh,
            verb=verb,
            arguments=msgpack.packb(arguments),
            request=request,
            target=target,
            issued_us=clock.wall_us(),
        )


async def control(
    mesh: "Mesh",
    verb: str,
    arguments: dict[str, Any],
    patience: float = HEARD_SECONDS,
    timeout: float = ASK_SECONDS,
) -> Any:
    """Return what the policy agent answers to a request, passed on by this node's agent.

    An agent that has just started may not have heard of one yet: it has `patience` seconds for that. The policy agent
    has `timeout` seconds for its answer.
    """
    await _heard(mesh, patience)
    asked = {"verb": verb, "payload": msgpack.packb(arguments)}
    answer = await mesh.call(OWN_SERVICE, "control", asked, timeout=timeout)
    return msgpack.unpackb(answer)


async def _heard(mesh: "Mesh", patience: float = HEARD_SECONDS) -> dict[str, Any]:
    """Return this agent's status once it knows a policy agent; raise Problem after `patience` seconds."""
    end = asyncio.get_running_loop().time() + patience
    while True:
        status: dict[str, Any] = await ask(mesh, "status")
        if status["policy_agent_key"]:
            return status
        if asyncio.get_running_loop().time() >= end:
            raise Problem(
                "this node's agent has heard of no policy agent",
                "it publishes every five seconds on the control subject; an agent with a policy_dir does not listen",
                "busmesh policy-agent -c policy.yaml; or, where node.yaml names a policy_dir, change files and SIGHUP",
            )
        await asyncio.sleep(LOOK_AGAIN)
