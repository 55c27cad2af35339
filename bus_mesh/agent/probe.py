"""Dead processes are known at once, because the broker knows.

A call that takes longer than its method usually does makes the agent probe who may hold it: an empty message to the
process's inbox, with a reply subject. If nobody is subscribed there, the broker says so, and the process is gone.
"""

from collections.abc import Callable, Iterable
from typing import Final

from bus_mesh.agent.outbox import Sent
from bus_mesh.agent.watch import Watch
from bus_mesh.bus.contract import Bus
from bus_mesh.gates.gate import Flight
from bus_mesh.identity.keyring import Keyring, Peer
from bus_mesh.protocol.subjects import Subjects
from bus_mesh.resilience.usual import Usual

EVERY: Final = 0.05
"""Seconds between looks at the calls under way."""
PER_PEER: Final = 0.1
"""Seconds between two probes of the same process."""


class Prober:
    """Looks after calls that are overdue. `dead(node, boot, now)` is told of processes that are gone."""

    def __init__(
        self,
        node: str,
        keyring: Keyring,
        bus: Bus,
        subjects: Subjects,
        watch: Watch,
        usual: Usual,
        dead: Callable[[str, str, float], None],
    ) -> None:
        self._node = node
        self._keyring = keyring
        self._bus = bus
        self._subjects = subjects
        self._watch = watch
        self._usual = usual
        self._dead = dead
        self._probed: dict[tuple[str, str], float] = {}
        self._probes: dict[int, tuple[str, str]] = {}
        self._looked_at = 0.0

    def look(self, flights: Iterable[Flight], now: float) -> None:
        """Probe whoever may hold a call that is overdue; to be called often while calls are under way."""
        if now - self._looked_at < EVERY / 2:
            return
        self._looked_at = now
        suspects: dict[tuple[str, str], Peer] = {}
        for flight in flights:
            sent: Sent | None = flight.sent
            if sent is not None and now - flight.tried_at > self._usual.longest(flight.service, flight.method):
                suspects.update({(peer.node, peer.boot): peer for peer in sent.peers})
        if not suspects:
            self._probed.clear()
            self._probes.clear()
        for name in suspects:
            if now - self._probed.get(name, 0.0) >= PER_PEER:
                self._probe(name, now)

    def answered(self, number: int, now: float) -> bool:
        """Take in the broker's word that nobody is there; False when it was no probe of ours."""
        name = self._probes.pop(number, None)
        if name is None:
            return False
        self._watch.gone(*name, now)
        self._dead(*name, now)
        return True

    def _probe(self, name: tuple[str, str], now: float) -> None:
        number = self._watch.number()
        if len(self._probes) > 4096:
            self._probes.clear()
        reply = self._subjects.none(self._node, self._keyring.boot, number)
        if self._bus.publish(self._subjects.inbox(*name), b"", reply):
            self._probes[number] = name
            self._probed[name] = now
