"""What a caller is told when a handler fails: its own errors as they are, anything else as an error id."""

import logging
import os
from typing import Any, Final

from bus_mesh.protocol.errors import Internal, MeshError, Ran
from bus_mesh.protocol.frames import HEAD_LIMIT, Fail, Head, Kind, encode
from bus_mesh_sdk._context import is_further

MESSAGE_LIMIT: Final = 4000
"""Characters of an error's message that travel."""

_log: Final = logging.getLogger("bus_mesh_sdk")


def failure(number: int, error: BaseException, label: str, instance: str, ran: Ran) -> Fail:
    """Return the FAIL frame for what ended call `number` of `label` (for example `orders.get`).

    A MeshError travels as itself. Anything else is logged here, once, with its traceback, and its text stays here.
    """
    if not isinstance(error, MeshError):
        error = _hidden(error, label)
    try:
        code, reason, message, details, head = error.to_wire()
    except Exception:  # an application sets what it likes on its errors: a retry_after of infinity, for example
        code, reason, message, details, head = _hidden(error, label).to_wire()
    head["ran"] = str(ran)
    head["instance"] = instance
    if is_further(error):
        head["origin"] = "further"
    return bounded(Fail(Kind.FAIL.value, number, code, reason, _cut(message), details, head))


def refusal(number: int, error: MeshError, instance: str) -> Fail:
    """Return the FAIL frame for a call that did not run."""
    code, reason, message, details, head = error.to_wire()
    return Fail(
        Kind.FAIL.value, number, code, reason, _cut(message), details, {**head, "ran": "no", "instance": instance}
    )


def bounded(frame: Fail) -> Fail:
    """Return a frame that fits on the socket: details and metadata that cannot travel are left out."""
    if _fits(frame):
        return frame
    _log.warning(
        "the details of %s cannot travel (over %d bytes, or no plain values): left out", frame.reason[:80], HEAD_LIMIT
    )
    head: Head = {name: value for name, value in (frame.head or {}).items() if name != "metadata"}
    return frame._replace(reason=_cut(frame.reason)[:80], message=_cut(frame.message), details=None, head=head)


def _hidden(error: BaseException, label: str) -> Internal:
    error_id = os.urandom(8).hex()
    _log.error("%s broke: error id %s", label, error_id, exc_info=error)
    return Internal(f"{label} broke; its log tells more under error id {error_id}", metadata={"error_id": error_id})


def _cut(text: Any) -> str:
    # A str with lone surrogates cannot be encoded, and an application may put any bytes it read into a message.
    whole = str(text).encode(errors="replace").decode()
    return whole if len(whole) <= MESSAGE_LIMIT else whole[:MESSAGE_LIMIT] + "…"


def _fits(frame: Fail) -> bool:
    try:
        return len(encode(frame)) <= HEAD_LIMIT
    except Exception:  # whatever MessagePack thinks of what an application put there
        return False
