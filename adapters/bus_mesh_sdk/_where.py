"""Where an app finds its agent, its own name and its token."""

import os
from typing import TYPE_CHECKING, Final

from bus_mesh.protocol import names
from bus_mesh.protocol.errors import InvalidArgument, Ran

if TYPE_CHECKING:
    from pathlib import Path  # 3 ms to import, and an app that is told its socket needs none

SYSTEM_SOCKET: Final = "/run/busmesh/agent.sock"
LONGEST_PATH: Final = 107
"""Bytes that the path of a Unix socket may take (sun_path of unix(7), less its closing zero)."""

_TOKEN_FD: Final = "BUSMESH_TOKEN_FD"
_token: list[str] = []


def socket_path(given: str | os.PathLike[str] | None) -> str:
    """Return the agent's socket: as given, else $BUSMESH_SOCKET, a running `busmesh up`, or the system's."""
    path = os.fspath(given) if given else os.environ.get("BUSMESH_SOCKET") or _of_running_mesh() or SYSTEM_SOCKET
    size = len(os.fsencode(path))
    if size > LONGEST_PATH:
        raise InvalidArgument(
            f"the socket path {path} has {size} bytes and the system's limit is {LONGEST_PATH}: "
            "give the agent a shorter `socket:`, for example under /run or $XDG_RUNTIME_DIR",
            ran=Ran.NO,
        )
    return path


def app_name(given: str | None) -> str:
    """Return the app to speak as: as given, else $BUSMESH_APP; InvalidArgument when there is none."""
    name = given or os.environ.get("BUSMESH_APP")
    if not name:
        raise InvalidArgument("no app to speak as: pass app=... to connect, or set BUSMESH_APP", ran=Ran.NO)
    return names.service_name(name)


def token(given: str | None) -> str | None:
    """Return the token: as given, else what the descriptor in $BUSMESH_TOKEN_FD holds, which is read once."""
    if given is not None:
        return given
    # Taken out of the environment, so that a child of this process does not read from a descriptor it has not got.
    number = os.environ.pop(_TOKEN_FD, None)
    if number is not None:
        try:
            with os.fdopen(int(number), encoding="ascii") as pipe:
                _token[:] = [pipe.read().strip()]
        except (OSError, ValueError) as error:
            raise InvalidArgument(f"{_TOKEN_FD}={number[:20]}: the token cannot be read: {error}", ran=Ran.NO) from None
    return _token[0] if _token else None


def home() -> "Path":
    """Return where `busmesh` keeps its files for this user."""
    from pathlib import Path

    given = os.environ.get("BUSMESH_HOME")
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/busmesh")
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "busmesh"


def _of_running_mesh() -> str | None:
    """Return the first node's socket of a running `busmesh up`, which leaves its addresses in up.json."""
    import json
    from pathlib import Path

    try:
        nodes = json.loads((home() / "up.json").read_text())["nodes"]
        found = next(iter(nodes.values()))["socket"]
        return found if isinstance(found, str) and Path(found).is_socket() else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration):
        return None
