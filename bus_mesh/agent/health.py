"""Asks instances that offer a health check whether they are well.

    DUE ──asked──▶ ASKED ──answer, or none in `timeout`──▶ judged ──`interval` after it was asked──▶ DUE

The question is a call of the agent's own, `_health`, on the socket of whoever serves; no other caller can make it. An
answer is a success, a failure or no answer in time is none. One timer for each instance that has a check; how often,
how long and how many failures in a row make it unwell is policy's, looked up anew for each question.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from bus_mesh.agent.inbound import Instance, Server
from bus_mesh.agent.session import CONSOLE
from bus_mesh.policy.models import Health
from bus_mesh.policy.units import show_seconds
from bus_mesh.protocol.frames import Call, Fail, Head, Kind, encode
from bus_mesh.protocol.names import HEALTH

_CALL: Final = int(Kind.CALL)
_NOTHING: Final = b"\x80"
"""No parameters, in MessagePack."""


class _Checkup:
    """Where the questions to one instance stand. `number` is that of the one that waits for its answer, 0 for none."""

    __slots__ = ("asked_at", "health", "instance", "number", "timer")

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.health = Health()
        self.number = 0
        self.asked_at = 0.0
        self.timer: asyncio.TimerHandle | None = None


class Checkups:
    """The instances that are asked. `policy(service)` says how, `judge(instance, passed, failures, why)` is told."""

    def __init__(
        self,
        policy: Callable[[str], Health],
        judge: Callable[[Instance, bool, int, str], None],
        now: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._judge = judge
        self._now = now
        self._checkups: dict[str, _Checkup] = {}
        self._asked: dict[tuple[Server, int], _Checkup] = {}

    def __repr__(self) -> str:
        return f"Checkups(instances={sorted(self._checkups)}, asked={len(self._asked)})"

    def begin(self, instance: Instance) -> None:
        """Ask an instance from now on, if it has a check."""
        if instance.has_check:
            checkup = self._checkups[instance.id] = _Checkup(instance)
            self._ask(checkup)

    def end(self, instance: Instance) -> None:
        """Ask an instance no more."""
        checkup = self._checkups.pop(instance.id, None)
        if checkup is not None:
            self._asked.pop((instance.session, checkup.number), None)
            if checkup.timer is not None:
                checkup.timer.cancel()

    def answered(self, session: Server, number: int, payload: bytes | None, fail: Fail | None) -> None:
        """Take in an answer; one that came too late, or to something else, is ignored."""
        checkup = self._asked.get((session, number))
        if checkup is not None:
            self._over(checkup, fail is None, "" if fail is None else f"{fail.reason}: {fail.message}")

    def _ask(self, checkup: _Checkup) -> None:
        instance = checkup.instance
        session, health = instance.session, self._policy(instance.service)
        checkup.health, checkup.asked_at = health, self._now()
        checkup.number = number = session.next_number()
        self._asked[session, number] = checkup
        # So a process that was stopped for long throws away at once what it was asked meanwhile.
        head: Head = {"expires_us": int((checkup.asked_at + health.timeout) * 1e6)}
        if len(session.instances) > 1:
            head["instance"] = instance.id
        ttl_ms = max(1, int(health.timeout * 1000))
        session.write(encode(Call(_CALL, number, instance.service, HEALTH, ttl_ms, CONSOLE, head, _NOTHING)))
        why = f"no answer in {show_seconds(health.timeout)}"
        checkup.timer = asyncio.get_running_loop().call_later(health.timeout, self._over, checkup, False, why)

    def _over(self, checkup: _Checkup, passed: bool, why: str) -> None:
        """Judge by an answer, or by its absence, and ask again when it is time."""
        instance = checkup.instance
        del self._asked[instance.session, checkup.number]
        if checkup.timer is not None:
            checkup.timer.cancel()
        wait = max(0.0, checkup.asked_at + checkup.health.interval - self._now())
        checkup.timer = asyncio.get_running_loop().call_later(wait, self._ask, checkup)
        self._judge(instance, passed, checkup.health.failures, why)
