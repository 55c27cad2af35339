"""Runs a call with an idempotency key once for an instance, and answers whoever comes again with what came of it.

Stands at the receiver, below what says who may call, and above what a place or a share of the rate is asked of: who
only waits for the answer of another, or is given it, needs neither.

An answer is kept when its call was handed to the instance and nobody says that it did not run. A call that was given
up or ran out of time there has no answer, and yet its handler may have done its work, and may still be at it: to free
the key would run it twice. So the key stays taken, and all who share it are told OUTCOME_UNKNOWN. What was refused on
the way to the instance, or by it, frees the key, and the next that has joined has its turn.
"""

from collections.abc import Callable
from hashlib import sha256
from typing import Final, Protocol, TypeAlias

from bus_mesh.gates.gate import Answer, Flight, Gate, Refuse, Stage, Wait, Wake
from bus_mesh.protocol.call import Outcome
from bus_mesh.protocol.errors import InvalidArgument, KeyReused, MeshError, OutcomeUnknown, Ran, ResourceExhausted
from bus_mesh.protocol.frames import encode
from bus_mesh.resilience.kept_answers import Entry, KeptAnswers, Key

KEPT_FOR: Final = 60.0
"""Seconds that a key is kept beyond the deadline of the call that ran."""
LONGEST_KEY: Final = 255
"""Bytes of a key."""
Answers: TypeAlias = KeptAnswers[Flight, Outcome]

_SENT: Final = Stage.SENT
_NO: Final = Ran.NO
_COUNTED: Final = {
    Entry.RUNS: "ran",
    Entry.JOINS: "joined",
    Entry.ANSWERED: "answered",
    Entry.REUSED: "reused",
    Entry.FULL: "full",
    Entry.CROWDED: "full",
}
_NOT_KEPT: Final = Outcome.refusal(
    OutcomeUnknown("the first call with this key ran; its answer was not kept, for there was no room", ran=Ran.YES)
)


class Keeping(Protocol):
    """What a call is for: an instance, and the answers that are kept of it."""

    kept: Answers


class Once(Gate):
    """Runs what has one key once. `counted(result)` counts: ran, joined, answered, reused or full."""

    def __init__(self, counted: Callable[[str], None] = lambda result: None) -> None:
        self._counted = counted

    def enter(self, call: Flight, now: float) -> Answer | Wait | None:
        """Let a call without a key on, and the first with its key; have the others wait, or answer them."""
        if (head := call.head) is None or (said := head.get("idempotency_key")) is None:
            return None
        if call.keyed is not None:
            return self._woken(call)
        if type(said) is not str or not said or len(said.encode()) > LONGEST_KEY:
            text = f"an idempotency key is text of 1 to {LONGEST_KEY} bytes, and not {said!r:.80}"
            return Refuse(InvalidArgument(text, ran=Ran.NO))
        target: Keeping = call.target
        kept, name = target.kept, (call.caller, call.method, said)
        entry = kept.take(name, sha256(call.payload).digest(), call, now)
        self._counted(_COUNTED[entry])
        if entry is Entry.RUNS:
            call.keyed = kept[name]
            return None
        if entry is Entry.JOINS:
            call.keyed = kept[name]
            call.payload = b""  # the same as that of the call that runs, which hands it on
            return Wait(call.deadline)
        if entry is Entry.ANSWERED and (answer := kept[name].answer) is not None:
            return _replay(answer)
        return Refuse(_refusal(entry, call, said, kept.retry_after(now)))

    def leave(self, call: Flight, outcome: Outcome, now: float) -> Wake | None:
        """Keep how a call ended that ran, and wake who waits for it; hand its turn on if it did not run."""
        if call.keyed is None:
            return None
        key: Key[Flight, Outcome] = call.keyed
        call.keyed = None
        target: Keeping = call.target
        if key.runner is not call:
            target.kept.part(key, call)
            if outcome.ran is _NO:
                outcome.doubt()  # it waited for one that runs, and both are one call to whoever chose the key
            return None
        if (outcome.ran is _NO or call.stage is not _SENT) and not call.doubt:
            return self._hand_on(call, target.kept.free(key))
        answer = _unknown(call, outcome) if outcome.final else outcome.copy()
        size = len(answer.payload) if answer.fail is None else len(encode(answer.fail))
        joined = target.kept.keep(key, answer, size, call.deadline + KEPT_FOR, _NOT_KEPT)
        return Wake(*joined) if joined else None

    def _woken(self, call: Flight) -> Answer | Wait | None:
        key: Key[Flight, Outcome] = call.keyed
        if key.answer is not None:
            call.keyed = None
            return _replay(key.answer)
        if key.runner is not call:
            return Wait(call.deadline)
        self._counted("ran")
        return None

    def _hand_on(self, call: Flight, heir: Flight | None) -> Wake | None:
        if heir is None:
            return None
        heir.payload = call.payload
        return Wake(heir)


def _replay(kept: Outcome) -> Answer:
    answer = kept.copy()
    answer.replayed = True
    return Answer(answer)


def _refusal(entry: Entry, call: Flight, said: str, delay: float) -> MeshError:
    called = f"{call.service}/{call.method}"
    if entry is Entry.REUSED:
        text = f"the idempotency key {said!r:.80} was used for {called} with other parameters: take another"
        return KeyReused(text, ran=Ran.NO)
    if entry is Entry.FULL:
        text = f"{called}: this instance keeps as many answers by idempotency key as it may"
        return ResourceExhausted(text, ran=Ran.NO, retry_after=delay)
    text = f"{called}: as many calls wait for the answers of others with their idempotency key as may"
    return ResourceExhausted(text, ran=Ran.MAYBE, retry_after=delay)


def _unknown(call: Flight, outcome: Outcome) -> Outcome:
    text = (
        f"the first call of {call.service}/{call.method} with this idempotency key ended as {outcome.reason} before "
        "its handler had answered, which may have done its work"
    )
    return Outcome.refusal(OutcomeUnknown(text, ran=Ran.MAYBE))
