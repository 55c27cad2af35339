"""The reserved service `busmesh`: what this agent tells the command line. Local only; nothing here changes anything."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgpack

from bus_mesh import __version__
from bus_mesh.agent.session import LocalSession, fail
from bus_mesh.agent.watch import Watch
from bus_mesh.identity.announcement import Announcement
from bus_mesh.identity.certificate import NodeCertificate
from bus_mesh.protocol.errors import ResourceExhausted, Unimplemented
from bus_mesh.protocol.frames import Call, Kind, Reply

LISTEN: Final = 0.2
"""Seconds without another answer after which everybody is taken to have answered."""
LONGEST: Final = 1.0
"""Seconds that answers are waited for at most."""
_AT_ONCE: Final = 16
_REPLY: Final = int(Kind.REPLY)

Row = dict[str, Any]


class Console:
    """Answers `nodes`, `services`, `instances` and `status`. `certificate(announcement)` returns the verified one."""

    def __init__(
        self,
        watch: Watch,
        status: Callable[[], Row],
        wall_us: Callable[[], int],
        certificate: Callable[[Announcement], NodeCertificate | None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._watch = watch
        self._status = status
        self._wall_us = wall_us
        self._certificate = certificate
        self._spawn = spawn
        self._looking = 0
        self._tables: dict[str, Callable[[list[Announcement]], list[Row]]] = {
            "nodes": self._nodes,
            "services": _services,
            "instances": _instances,
        }

    def call(self, session: LocalSession, frame: Call) -> None:
        """Answer a call to the reserved service."""
        if frame.method == "status":
            self._reply(session, frame, self._status())
        elif frame.method not in self._tables:
            known = ", ".join([*self._tables, "status"])
            session.send(fail(frame.id, Unimplemented(f"busmesh has no method {frame.method!r:.80}: it has {known}")))
        elif self._looking >= _AT_ONCE:
            session.send(fail(frame.id, ResourceExhausted("too many are looking at once", retry_after=LONGEST)))
        else:
            self._spawn(self._look(session, frame))

    async def _look(self, session: LocalSession, frame: Call) -> None:
        self._looking += 1
        try:
            seen = await self._everyone()
        finally:
            self._looking -= 1
        self._reply(session, frame, self._tables[frame.method](list(seen.values())))

    async def _everyone(self) -> dict[str, Announcement]:
        """Ask every node for its announcement, until nobody new has answered for a while."""
        seen: dict[str, Announcement] = {}
        fresh = asyncio.Event()

        def note(announcement: Announcement) -> None:
            known = seen.get(announcement.node)
            if known is None:
                fresh.set()
            if known is None or announcement.sequence >= known.sequence or announcement.boot != known.boot:
                seen[announcement.node] = announcement

        self._watch.watchers.append(note)
        try:
            self._watch.learn(self._watch.document)
            self._watch.ask_everyone()
            loop = asyncio.get_running_loop()
            end = loop.time() + LONGEST
            while (left := end - loop.time()) > 0:
                fresh.clear()
                try:
                    await asyncio.wait_for(fresh.wait(), min(LISTEN, left))
                except TimeoutError:
                    break
        finally:
            self._watch.watchers.remove(note)
        return {node: seen[node] for node in sorted(seen) if not seen[node].withdrawn}

    def _nodes(self, seen: list[Announcement]) -> list[Row]:
        now = self._wall_us()
        return [self._node(announcement, now) for announcement in seen]

    def _node(self, a: Announcement, now: int) -> Row:
        certificate = self._certificate(a)
        return {
            "node": a.node,
            "version": __version__ if a.node == self._status()["node"] else "",
            "boot": a.boot,
            "services": [offer.service for offer in a.offers],
            "state": _state(a),
            "age_ms": max(0, (now - a.issued_us) // 1000),
            "cert_expires_us": certificate.not_after_us if certificate is not None else 0,
        }

    def _reply(self, session: LocalSession, frame: Call, value: object) -> None:
        session.send(Reply(_REPLY, frame.id, None, msgpack.packb(value)))


def _state(a: Announcement) -> str:
    states = {instance.state for offer in a.offers for instance in offer.instances}
    return "draining" if states == {"leaving"} else "up"


def _services(seen: list[Announcement]) -> list[Row]:
    rows: dict[str, Row] = {}
    for a in seen:
        for offer in a.offers:
            row = rows.setdefault(offer.service, {"service": offer.service, "instances": 0, "nodes": [], "methods": {}})
            row["instances"] += sum(instance.state == "up" for instance in offer.instances)
            row["nodes"].append(a.node)
            row["methods"] |= {
                m.name: {"name": m.name, "idempotent": m.idempotent, "timeout_ms": m.timeout_ms} for m in offer.methods
            }
    return [{**rows[name], "methods": list(rows[name]["methods"].values())} for name in sorted(rows)]


def _instances(seen: list[Announcement]) -> list[Row]:
    rows = [
        {
            "instance": i.id,
            "service": offer.service,
            "node": a.node,
            "version": i.version,
            "labels": dict(i.labels),
            "state": i.state,
            "load": i.load,
        }
        for a in seen
        for offer in a.offers
        for i in offer.instances
    ]
    return sorted(rows, key=lambda row: (row["service"], row["node"], row["instance"]))
