"""What went wrong, why, and what to do next: what every exception becomes before a user sees it."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import Final, NamedTuple

from bus_mesh.protocol.errors import AgentAway, MeshError

FAILED: Final = 1
USAGE: Final = 2
CALL_FAILED: Final = 64
"""A failed call exits with this plus its gRPC code."""


class Problem(Exception):
    """An error in words: `what` happened, `why`, and the `then` that helps (a command where there is one)."""

    def __init__(self, what: str, why: str = "", then: str = "", *, exit_code: int = FAILED) -> None:
        super().__init__(what)
        self.what, self.why, self.then, self.exit_code = what, why, then, exit_code

    def __str__(self) -> str:
        lines = [f"error: {self.what}"]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.then:
            lines.append(f"  try: {self.then}")
        return "\n".join(lines)


def usage(what: str, why: str = "", then: str = "") -> Problem:
    """Return the problem of a command that was given what it cannot use."""
    return Problem(what, why, then, exit_code=USAGE)


def explain(error: BaseException) -> Problem:
    """Return the problem that `error` is; `BUSMESH_DEBUG=1` prints the traceback first."""
    if os.environ.get("BUSMESH_DEBUG"):
        traceback.print_exception(error)
    if isinstance(error, BaseExceptionGroup):
        return explain(error.exceptions[0])
    if isinstance(error, Problem):
        return error
    for known in _KNOWN:
        kind = getattr(sys.modules.get(known.module), known.name, None)
        if kind is not None and isinstance(error, kind):
            return known.explain(error)
    return Problem(
        f"busmesh itself broke: {type(error).__name__}: {error}",
        "this is a defect of bus-mesh, not of your input",
        "the same command with BUSMESH_DEBUG=1 shows where; please report it with that output",
    )


def _mesh_error(error: MeshError) -> Problem:
    code = int(error.wire_code or error.code)
    then = (
        "start one with `busmesh up --demo`, or name its socket with --socket" if isinstance(error, AgentAway) else ""
    )
    why = f"it did not run; try again in {error.retry_after:.1f} s" if error.retry_after else ""
    return Problem(str(error), why, then, exit_code=CALL_FAILED + code)


def _refused(error: BaseException) -> Problem:
    then = "have another token made: busmesh token create NODE"
    return Problem(f"the policy agent does not admit this machine: {error}", "nothing was written", then)


def _os_error(error: OSError) -> Problem:
    where = f"{error.filename}: " if error.filename else ""
    then = "run it as the user who owns that path, or name another one" if isinstance(error, PermissionError) else ""
    return Problem(f"{where}{error.strerror or error}", "", then)


class _Known(NamedTuple):
    """An exception by the module that defines it: looked up only where that is loaded, so that nothing is for this."""

    module: str
    name: str
    explain: Callable[..., Problem]


_KNOWN: Final = (
    _Known("bus_mesh.protocol.errors", "MeshError", _mesh_error),
    _Known("bus_mesh.policy.problems", "DocumentError", lambda error: Problem(str(error), exit_code=USAGE)),
    _Known("bus_mesh.identity.refusal", "IdentityError", lambda error: Problem(str(error))),
    _Known("bus_mesh.control.store", "StoreError", lambda error: Problem(str(error))),
    _Known("bus_mesh.agent.local", "SocketTaken", lambda error: Problem(str(error))),
    _Known("bus_mesh.agent.join", "JoinFailed", lambda error: Problem(str(error))),
    _Known("bus_mesh.identity.enrolment", "EnrolmentRefused", _refused),
    _Known("bus_mesh.process.kept", "SpawnFailed", lambda error: Problem(str(error))),
    _Known("bus_mesh.bus.embedded", "ServerFailed", lambda error: Problem(str(error))),
    _Known("builtins", "OSError", _os_error),
)
