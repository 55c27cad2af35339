"""Who is out of the mesh, at one agent: taken in at once, from any bundle, kept for good.

    named in a newer bundle ──▶ believed no more ──▶ out of the directory ──▶ calls in its hands end or move ──▶ on disk
    this node itself        ──▶ an alarm, every connection ends, and none is taken any more

The set only grows: a bundle that lists fewer takes nobody back, and neither does a start without the control plane,
because all who were ever listed stand in a file of the agent's own, in the form of the document.
"""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

from bus_mesh.agent.durable import replace, sync
from bus_mesh.agent.outbound import Outbound
from bus_mesh.agent.watch import Watch
from bus_mesh.identity.keyring import Keyring, Own
from bus_mesh.policy.load import PolicyError, parse_revocation
from bus_mesh.policy.models import Revocation
from bus_mesh.protocol.errors import MeshError, NodeRevoked
from bus_mesh.telemetry.log import get_logger

__all__ = ["Revocations"]


class Revocable(Protocol):
    """What is needed of an agent to put nodes out, itself among them."""

    own: Own
    keyring: Keyring
    watch: Watch
    outbound: Outbound

    @property
    def now(self) -> Callable[[], float]:
        """Monotonic seconds."""

    def bar(self, error: MeshError) -> None:
        """Serve and call no more."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what ends with the agent."""


class Revocations:
    """All who are out as far as one agent has heard. `file` keeps them; None where nothing is to be kept."""

    def __init__(self, node: Revocable, file: Path | None) -> None:
        self.said = Revocation()
        self._node = node
        self._file = file
        self._kept = Revocation()
        self._keeping = False
        self._log = get_logger("revocation")

    def __repr__(self) -> str:
        return f"Revocations(nodes={list(self.said.nodes)}, operators={list(self.said.operators)})"

    @property
    def barred(self) -> bool:
        """Whether this node itself is out."""
        return self._node.own.node in self.said.nodes

    def start(self) -> None:
        """Put out again who was when this agent ran last. Before it says its first word on the bus."""
        if self._file is None:
            return
        try:
            self._kept = parse_revocation(self._file.read_bytes(), str(self._file))
        except FileNotFoundError:
            return
        except (OSError, PolicyError) as error:
            self._log.error("who was revoked before cannot be read; the policy agent is waited for", why=str(error))
            return
        self.add(self._kept)

    def take(self, document: bytes) -> None:
        """Put out whom a document of an authentic bundle lists."""
        try:
            self.add(parse_revocation(document, "Revocation/revoked"))
        except PolicyError as error:
            self._log.error("ALARM: a revocation is not understood, and nobody is put out by it", why=str(error))

    def add(self, said: Revocation) -> None:
        """Put out whom this lists and who is not yet."""
        new = [node for node in said.nodes if node not in self.said.nodes]
        self.said = self.said.adding(said.nodes, said.operators)
        for node in new:
            self._expel(node)
        if self._file is not None and self.said != self._kept and not self._keeping:
            self._keeping = True
            self._node.spawn(self._keep(self._file))

    def _expel(self, node: str) -> None:
        me = self._node
        if node == me.own.node:
            self._log.error("ALARM: this node is revoked: it serves and calls no more", then="admit it by another name")
            me.bar(NodeRevoked(f"node {node} is revoked: its agent serves and calls no more"))
            return
        now = me.now()
        for peer in me.keyring.revoke(node):
            me.watch.gone(node, peer.boot, now)
            me.outbound.dead(node, peer.boot, now)
        self._log.warning("node revoked: it is believed no more", revoked=node)

    async def _keep(self, file: Path) -> None:
        try:
            while self._kept != self.said:
                whole = self.said
                await asyncio.to_thread(_write, file, whole.text.encode())
                self._kept = whole
        except OSError as error:
            # In force all the same; the bundle on disk lists them too, as long as that is the newest.
            self._log.error("who is revoked was not written to disk", why=str(error))
        finally:
            self._keeping = False


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace(file, data)
    sync(file.parent)
