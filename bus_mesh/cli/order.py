"""An operator's commands to nodes: each signed for the very process that is to carry it out."""

import secrets
from typing import TYPE_CHECKING, Any, Final, Self

import msgpack

from bus_mesh.cli.ask import OWN_SERVICE, ask, closest
from bus_mesh.cli.problem import Problem
from bus_mesh.protocol.errors import DeadlineExceeded, MeshError, Unimplemented

if TYPE_CHECKING:
    from bus_mesh_sdk import Mesh

    from bus_mesh.cli.operator import Operator

__all__ = ["PATIENCE", "NoAnswer", "Orderer"]

PATIENCE: Final = 12.0
"""Seconds that a node has for its answer."""


KNOWN_SECONDS: Final = 3.0
"""Seconds that the policy agent has to say whom it has heard before."""


class NoAnswer(Problem):
    """A node did not answer in time; what it was asked it may have done."""


class Orderer:
    """One operator who asks nodes; `open` it on a session."""

    def __init__(self, mesh: "Mesh", operator: "Operator", name: str) -> None:
        self._mesh = mesh
        self._operator = operator
        self._name = name
        self._keys: dict[str, bytes] = {}

    @classmethod
    async def open(cls, mesh: "Mesh", operator: "Operator") -> Self:
        """Return an operator's way to every node that this node's agent hears of."""
        opened = cls(mesh, operator, (await ask(mesh, "status"))["mesh"])
        await opened.nodes()
        return opened

    async def nodes(self) -> list[dict[str, Any]]:
        """Return the rows of all nodes that answer now."""
        rows: list[dict[str, Any]] = await ask(self._mesh, "nodes")
        self._keys.update({row["node"]: bytes.fromhex(row["key"]) for row in rows})
        return rows

    async def ask(
        self, node: str, verb: str, arguments: dict[str, Any], *, timeout: float = PATIENCE, request: str = ""
    ) -> Any:
        """Return what a node answers to a command; `request` is the same where the same is asked again.

        Raises the node's MeshError, and Problem for a node that is not there or does not answer for `timeout` seconds.
        """
        if node not in self._keys:
            raise await self._unheard(node)
        signed = self._operator.sign(self._name, verb, arguments, request or secrets.token_hex(16), self._keys[node])
        asked = {"node": node, "verb": verb, "payload": signed}
        try:
            answer = await self._mesh.call(OWN_SERVICE, "order", asked, timeout=timeout + 1.0)
        except DeadlineExceeded:
            why = "it may have left, or be cut off from the bus"
            raise NoAnswer(f"no answer from {node} for {timeout:g} s", why, "busmesh get nodes") from None
        except Unimplemented as error:
            raise Problem(f"{node} does not know {verb}", error.message, "bring its agent to this version") from None
        return msgpack.unpackb(answer)

    async def _unheard(self, node: str) -> Problem:
        """Return what there is to say of a node that is not heard: for how long, or that there is none of that name."""
        from bus_mesh.cli.judgement import span
        from bus_mesh.cli.operator import control

        try:
            acks = (await control(self._mesh, "acks", {}, patience=0.0, timeout=KNOWN_SECONDS))["acks"]
        except (Problem, MeshError):  # nobody keeps who has been there
            acks = []
        ages = {ack["node"]: ack["age_us"] for ack in acks}
        if node not in ages:
            return Problem(closest("node", node, list(self._keys)), "no such node has been heard", "busmesh get nodes")
        why = "its agent has ended, or is cut off from the bus"
        return NoAnswer(f"no answer from {node} for {span(ages[node])}", why, "busmesh check, there and here")
