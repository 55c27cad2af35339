"""What operators have this node do, or ask it: signed commands, from its own apps or over the bus.

    ctl.node.<node> ──opened, signed by the node that passes it on──▶ verified as an operator's ──▶ the verb's handler

A command names the epoch key of this process, so a recording dies with it, and a request id, so that what changes
something is done once however often it comes. Nobody but operators is answered more than a refusal.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import msgpack

from bus_mesh.agent.outbox import Outbox
from bus_mesh.agent.receive import Allowance
from bus_mesh.agent.session import CONSOLE
from bus_mesh.bus.contract import Bus
from bus_mesh.identity.certificate import May, OperatorCertificate
from bus_mesh.identity.command import Command, verify_command
from bus_mesh.identity.envelope import EnvelopeKind
from bus_mesh.identity.keyring import Dropped, Keyring, NotARecipient, Now, Opened, Untrusted
from bus_mesh.protocol.call import fail
from bus_mesh.protocol.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MeshError,
    PermissionDenied,
    Ran,
    ResourceExhausted,
    Unimplemented,
)
from bus_mesh.protocol.frames import Fields, FrameError, Kind, Reply, encode, fit
from bus_mesh.telemetry.log import get_logger

__all__ = ["Handler", "Orders"]

PER_SECOND: Final = 100
"""Commands of one node that are looked at in a second: each takes two signatures to verify."""
AT_ONCE: Final = 128
"""Commands under way."""
_KEPT: Final = 1024
"""Changes whose outcome is kept, by who asked and request id."""
_AROUND: Final = 4096  # bytes of an answer's envelope that are not the answer
_CALL: Final = int(Kind.CALL)
_REPLY: Final = int(Kind.REPLY)

Handler = Callable[[dict[str, Any]], Awaitable[object]]
"""Carries a command out: its arguments in, what MessagePack can say out; a MeshError is for who asked."""


class NotAnOperator(PermissionDenied, reason="NOT_AN_OPERATOR"):
    """The command is not signed by an operator who may this, or not for this process, or too old."""


class Orders:
    """Carries out what operators signed. `on` says how.

    `dropped(reason)` counts what was not even a command; `revoked(name)` tells whether an operator is out.
    """

    def __init__(
        self,
        keyring: Keyring,
        bus: Bus,
        outbox: Outbox,
        clock: Callable[[], Now],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        dropped: Callable[[str], None],
    ) -> None:
        self.revoked: Callable[[str], bool] = lambda name: False
        self._keyring = keyring
        self._bus = bus
        self._outbox = outbox
        self._clock = clock
        self._spawn = spawn
        self._dropped = dropped
        self._verbs: dict[str, tuple[May, Handler]] = {}
        self._heard = Allowance(PER_SECOND)
        self._running = 0
        self._done: OrderedDict[tuple[str, str], tuple[int, asyncio.Future[bytes]]] = OrderedDict()
        self._log = get_logger("orders")

    def __repr__(self) -> str:
        return f"Orders({', '.join(self._verbs)}; running={self._running})"

    def on(self, verb: str, may: May, handler: Handler) -> None:
        """Have `handler` carry out `verb` for operators who `may`; what is not merely looking is done once."""
        self._verbs[verb] = may, handler

    def on_command(self, subject: str, reply: str, data: bytes, status: int) -> None:
        """Take in a command that another agent passes on: what is not sealed for us and signed by it is dropped."""
        try:
            opened = self._keyring.open(subject, data, self._clock())
            frames = [fit(said) for said in opened.frames]
        except (Dropped, NotARecipient) as error:
            self._dropped(error.reason)
            return
        except FrameError:
            self._dropped("BAD_FRAME")
            return
        for frame in frames:
            if opened.kind is not EnvelopeKind.CONTROL or frame[0] != _CALL or frame[2] != CONSOLE:
                self._dropped("WRONG_KIND")
            elif not self._heard.take(opened.peer.node, self._clock().monotonic):
                self._dropped("TOO_MANY_COMMANDS")
            else:
                self._spawn(self._answer(opened, frame))

    async def carry_out(self, verb: str, signed: bytes) -> bytes:
        """Return what came of a command, as MessagePack; raise its MeshError, NotAnOperator for what is not to be."""
        may, handler = self._known(verb)
        operator, command = self._verified(verb, signed, may)
        if may is May.OBSERVE:
            return await self._run(handler, command)
        key = operator.serial, command.request
        if key not in self._done:
            self._make_room()  # what is refused for want of it is no outcome: it may be asked for again
            self._log.info("command", verb=verb, operator=operator.name, request=command.request)
            done = asyncio.ensure_future(self._run(handler, command))
            done.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, whoever waits for it
            self._done[key] = command.expires_us, done
        return await asyncio.shield(self._done[key][1])

    def close(self) -> None:
        """End what is under way."""
        for _, done in self._done.values():
            done.cancel()

    def _make_room(self) -> None:
        """Forget the oldest outcomes, but none while whoever holds its command could have it carried out again."""
        while len(self._done) >= _KEPT:
            expires_us, oldest = next(iter(self._done.values()))
            if not oldest.done() or self._clock().wall_us <= expires_us:
                text = f"{_KEPT} changes at a time are as many as an agent remembers: wait a minute"
                raise ResourceExhausted(text, ran=Ran.NO, retry_after=10.0)
            self._done.popitem(last=False)
        self._refuse_crowd()

    def _refuse_crowd(self) -> None:
        if self._running >= AT_ONCE:
            raise ResourceExhausted(f"{AT_ONCE} commands are under way here", ran=Ran.NO, retry_after=0.5)

    async def _answer(self, opened: Opened, frame: Fields) -> None:
        try:
            if opened.skew_us:
                text = f"the clocks of this node and {opened.peer.node} differ by {opened.skew_us / 1e6:.1f} s: use NTP"
                raise FailedPrecondition(text, ran=Ran.NO)
            answer = await self.carry_out(frame[3], frame[7])
        except MeshError as error:
            self._outbox.answer(opened.peer, encode(fail(frame[1], error)))
        else:
            self._outbox.answer(opened.peer, encode(Reply(_REPLY, frame[1], None, answer)))

    def _known(self, verb: str) -> tuple[May, Handler]:
        if verb not in self._verbs:
            known = ", ".join(sorted(self._verbs)) or "nothing"
            raise Unimplemented(f"an agent cannot be asked to {verb!r:.80}: it knows {known}", ran=Ran.NO)
        return self._verbs[verb]

    def _verified(self, verb: str, signed: bytes, may: May) -> tuple[OperatorCertificate, Command]:
        own, now = self._keyring.own, self._clock()
        try:
            operator, command = verify_command(signed, own.mesh, own.root, now.wall_us, self._keyring.key_ids, may)
        except Untrusted as error:
            raise NotAnOperator(f"{verb}: {error.message}", ran=Ran.NO) from None
        if self.revoked(operator.name):
            raise NotAnOperator(f"{verb}: operator {operator.name} is revoked", ran=Ran.NO)
        if command.verb != verb:
            raise NotAnOperator(f"a command to {command.verb!r:.80} does not {verb}", ran=Ran.NO)
        return operator, command

    async def _run(self, handler: Handler, command: Command) -> bytes:
        self._refuse_crowd()
        try:
            arguments = msgpack.unpackb(command.arguments, strict_map_key=True, max_ext_len=0)
        except Exception:  # msgpack raises a dozen unrelated classes
            arguments = None
        if type(arguments) is not dict:
            raise InvalidArgument(f"{command.verb} takes other arguments", ran=Ran.NO)
        self._running += 1
        try:
            answer: bytes = msgpack.packb(await handler(arguments))
        except MeshError:
            raise
        except Exception as error:
            self._log.error("command failed", verb=command.verb, exc_info=error)
            text = f"{command.verb} failed at {self._keyring.own.node}; its agent's log says why"
            raise Internal(text, ran=Ran.MAYBE) from None
        finally:
            self._running -= 1
        if len(answer) > self._bus.max_payload - _AROUND:
            text = f"the answer has {len(answer)} bytes, too many for this bus: ask for less"
            raise ResourceExhausted(text, ran=Ran.YES)
        return answer
