"""The reserved service `busmesh`: what this agent tells the command line, and passes on to the policy agent.

Local only. Nothing here changes anything: what does is signed by an operator, and judged by who carries it out, the
policy agent or the node (`orders.py`).
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

import msgpack

from bus_mesh.agent.compiler import Compiler
from bus_mesh.agent.control import Control
from bus_mesh.agent.denials import Denials
from bus_mesh.agent.description import Row, announced, described
from bus_mesh.agent.orders import Orders
from bus_mesh.agent.requests import Requests
from bus_mesh.agent.session import LocalSession
from bus_mesh.agent.watch import Watch
from bus_mesh.identity.announcement import Announcement
from bus_mesh.identity.certificate import NodeCertificate
from bus_mesh.identity.keyring import Keyring, Own
from bus_mesh.identity.keys import key_id
from bus_mesh.policy.access import Access
from bus_mesh.protocol import names
from bus_mesh.protocol.call import fail
from bus_mesh.protocol.errors import InvalidArgument, MeshError, Ran, ResourceExhausted, Unavailable, Unimplemented
from bus_mesh.protocol.frames import Call, Kind, Method, Reply
from bus_mesh.protocol.subjects import Subjects

LISTEN: Final = 0.2
"""Seconds without another answer after which everybody is taken to have answered."""
SHORTEST: Final = 0.03
"""The same once all that are known have answered, if they took no longer."""
LONGEST: Final = 1.0
"""Seconds that answers are waited for at most."""
_AT_ONCE: Final = 16
PASSED_ON: Final = frozenset(
    ("history", "bundle", "acks", "get", "stage", "apply", "rollback", "token", "revoke", "revoke_operator")
)
"""What people may ask of the policy agent; the rest is between the agents themselves."""
PASSED_ON_AT_ONCE: Final = 256
PASSED_ON_SECONDS: Final = 30.0
_ASKED: Final = ("access", "service", "control", "order")
_REPLY: Final = int(Kind.REPLY)


class Agent(Protocol):
    """What the console needs of its agent."""

    own: Own
    control: Control
    denials: Denials
    keyring: Keyring
    orders: Orders
    requests: Requests
    subjects: Subjects

    def now(self) -> float:
        """Return the monotonic seconds."""

    @property
    def access(self) -> Access:
        """Who may call what, by the policy in force."""

    def status(self) -> Row:
        """What `busmesh status` tells of it."""


class Console:
    """Answers what `call` lists, and passes `control` on to the policy agent.

    `certificate(announcement)` returns the verified one.
    """

    def __init__(
        self,
        agent: Agent,
        watch: Watch,
        compiler: Compiler,
        wall_us: Callable[[], int],
        certificate: Callable[[Announcement], NodeCertificate | None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._watch = watch
        self._compiler = compiler
        self._agent = agent
        self._wall_us = wall_us
        self._certificate = certificate
        self._spawn = spawn
        self._looking = 0
        self._answered: set[str] = set()
        self._passing = 0
        self._tables: dict[str, Callable[[list[Announcement]], list[Row]]] = {
            "nodes": self._nodes,
            "services": _services,
            "instances": announced,
        }

    def call(self, session: LocalSession, frame: Call) -> None:
        """Answer a call to the reserved service."""
        if frame.method == "status":
            self._reply(session, frame, self._agent.status())
        elif frame.method == "audit":
            self._reply(session, frame, self._agent.denials.audited())
        elif frame.method in _ASKED:
            self._asked(session, frame)
        elif frame.method not in self._tables:
            known = ", ".join([*self._tables, "status", "audit", *_ASKED])
            session.send(fail(frame.id, Unimplemented(f"busmesh has no method {frame.method!r:.80}: it has {known}")))
        else:
            self._begin_to_look(session, frame, self._tables[frame.method])

    def _asked(self, session: LocalSession, frame: Call) -> None:
        """Answer a question with parameters: what policy says of a call, or what the policy agent or a node answers."""
        try:
            said = msgpack.unpackb(frame.payload, strict_map_key=True, max_ext_len=0)
            if frame.method == "access":
                verdict = self._agent.access.check(str(said["caller"]), str(said["service"]), str(said["method"]))
                self._reply(session, frame, {**verdict._asdict(), "number": self._agent.access.number})
                return
            if frame.method == "service":
                service = names.callee_name(said["service"])
                self._begin_to_look(session, frame, lambda seen: self._described(service, seen))
                return
            verb, payload = names.method_name(said["verb"]), bytes(said["payload"])
            node = names.node_name(said["node"]) if frame.method == "order" else ""
        except MeshError as error:
            session.send(fail(frame.id, error))
            return
        except Exception:  # msgpack raises a dozen unrelated classes
            text = f"busmesh {frame.method} takes other parameters"
            session.send(fail(frame.id, InvalidArgument(text, ran=Ran.NO)))
            return
        if not node and verb not in PASSED_ON:
            known = ", ".join(sorted(PASSED_ON))
            session.send(fail(frame.id, Unimplemented(f"{verb} is not passed on: {known} are", ran=Ran.NO)))
        elif self._passing >= PASSED_ON_AT_ONCE:
            text = f"{PASSED_ON_AT_ONCE} requests of commands are under way"
            session.send(fail(frame.id, ResourceExhausted(text, ran=Ran.NO, retry_after=0.2)))
        else:
            self._spawn(self._pass_on(session, frame, node, verb, payload))

    async def _pass_on(self, session: LocalSession, frame: Call, node: str, verb: str, payload: bytes) -> None:
        self._passing += 1
        try:
            timeout = min(frame.ttl_ms / 1000, PASSED_ON_SECONDS)
            asking = (
                self._order(node, verb, payload, timeout) if node else self._agent.control.ask(verb, payload, timeout)
            )
            self._reply(session, frame, await asking)
        except MeshError as error:
            session.send(fail(frame.id, error))
        finally:
            self._passing -= 1

    async def _order(self, node: str, verb: str, command: bytes, timeout: float) -> bytes:
        """Have a node carry out what an operator signed; the node verifies it."""
        agent = self._agent
        if node == agent.own.node:
            return await agent.orders.carry_out(verb, command)
        peer = agent.keyring.latest(node)
        if peer is None:
            raise Unavailable(f"nothing has been heard of node {node} lately: see `busmesh get nodes`", ran=Ran.NO)
        return await agent.requests.ask(peer, agent.subjects.command(node), verb, command, timeout)

    def _begin_to_look(self, session: LocalSession, frame: Call, show: Callable[[list[Announcement]], object]) -> None:
        """Answer with what `show` makes of every node's announcement."""
        if self._looking >= _AT_ONCE:
            session.send(fail(frame.id, ResourceExhausted("too many are looking at once", retry_after=LONGEST)))
        else:
            self._spawn(self._look(session, frame, show))

    async def _look(self, session: LocalSession, frame: Call, show: Callable[[list[Announcement]], object]) -> None:
        self._looking += 1
        try:
            seen = await self._everyone()
        finally:
            self._looking -= 1
        self._reply(session, frame, show(list(seen.values())))

    def _described(self, service: str, seen: list[Announcement]) -> Row:
        agent, made = self._agent, self._compiler
        found = described(service, made.parts, made.policy, seen, agent.access.number, agent.now())
        return {**found, "node": agent.own.node, "policy_state": agent.status()["policy_state"]}

    async def _everyone(self) -> dict[str, Announcement]:
        """Ask every node for its announcement, until all that are known have answered and nobody new does any more."""
        seen: dict[str, Announcement] = {}
        known = {one.node for one in self._agents()}
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
            began = loop.time()
            while (left := began + LONGEST - loop.time()) > 0:
                fresh.clear()
                # Who is not known yet is as far away as the furthest of the others, or a little further.
                quiet = max(SHORTEST, loop.time() - began) if len(known) > 1 and known <= seen.keys() else LISTEN
                try:
                    await asyncio.wait_for(fresh.wait(), min(quiet, LISTEN, left))
                except TimeoutError:
                    break
        finally:
            self._watch.watchers.remove(note)
        self._answered |= seen.keys()
        return {node: seen[node] for node in sorted(seen) if not seen[node].withdrawn}

    def _agents(self) -> list[Announcement]:
        """Return the last word of every agent that has spoken lately.

        A policy agent speaks too, but serves nothing and answers no question of this kind.
        """
        leased = self._agent.keyring.leased()
        self._answered &= {one.node for one in leased}
        return [one for one in leased if one.offers or one.node in self._answered]

    def _nodes(self, seen: list[Announcement]) -> list[Row]:
        now = self._wall_us()
        here = {announcement.node for announcement in seen}
        silent = [one for one in self._agents() if one.node not in here]
        rows = [self._node(announcement, now, _state(announcement)) for announcement in seen]
        return rows + [self._node(announcement, now, "silent") for announcement in silent]

    def _node(self, a: Announcement, now: int, state: str) -> Row:
        certificate = self._certificate(a)
        return {
            "node": a.node,
            "version": a.version,
            "boot": a.boot,
            "key": key_id(a.mesh, a.node, a.key).hex(),
            "services": [offer.service for offer in a.offers],
            "state": state,
            "age_ms": max(0, (now - a.issued_us) // 1000),
            "cert_expires_us": certificate.not_after_us if certificate is not None else 0,
        }

    def _reply(self, session: LocalSession, frame: Call, value: object) -> None:
        session.send(Reply(_REPLY, frame.id, None, msgpack.packb(value)))


def _state(a: Announcement) -> str:
    states = {instance.state for offer in a.offers for instance in offer.instances}
    if states == {"leaving"}:
        return "draining"
    return "drained" if states == {"drained"} else "up"


def _services(seen: list[Announcement]) -> list[Row]:
    rows: dict[str, Row] = {}
    for a in seen:
        for offer in a.offers:
            row = rows.setdefault(offer.service, {"service": offer.service, "instances": 0, "nodes": [], "methods": {}})
            row["instances"] += sum(instance.state == "up" for instance in offer.instances)
            row["nodes"].append(a.node)
            row["methods"] |= {method.name: _method(method) for method in offer.methods}
    return [{**rows[name], "methods": list(rows[name]["methods"].values())} for name in sorted(rows)]


def _method(method: Method) -> Row:
    return {
        "name": method.name,
        "idempotent": method.idempotent,
        "timeout_ms": method.timeout_ms,
        "schema": method.schema,
    }
