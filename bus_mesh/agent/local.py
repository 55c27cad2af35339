"""The local socket: who may connect, how many, and who they are.

The directory is 0750 and the socket 0660; beyond that the system itself tells which process of which user connected.
"""

import asyncio
import socket
import stat
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from bus_mesh.agent.apps import Peer
from bus_mesh.agent.session import LocalSession

MOST_CONNECTIONS: Final = 256
"""Connections of one user."""
MOST_HELD: Final = 64 * 1024 * 1024
"""Bytes of half-received frames of one user."""
BACKLOG: Final = 100
"""Connections that wait to be taken."""
_UCRED: Final = struct.Struct("3i")


class SocketTaken(Exception):
    """Something else listens on the socket, or its place cannot be used; the message says what to do."""


class Door:
    """Counts connections and what they hold, by user."""

    def __init__(self) -> None:
        self.sessions: set[LocalSession] = set()
        self._by_user: Counter[int] = Counter()
        self._held: dict[LocalSession, int] = {}

    def __repr__(self) -> str:
        return f"Door(sessions={len(self.sessions)})"

    def admitted(self, session: LocalSession) -> bool:
        """Count a connection in; False when its user has too many."""
        if self._by_user[session.peer.uid] >= MOST_CONNECTIONS:
            return False
        self._by_user[session.peer.uid] += 1
        self.sessions.add(session)
        return True

    def holding(self, session: LocalSession, held: int) -> bool:
        """Note what a connection holds of a frame that is not whole; False when its user holds too much."""
        self._held[session] = held
        user = session.peer.uid
        return sum(size for other, size in self._held.items() if other.peer.uid == user) <= MOST_HELD

    def left(self, session: LocalSession) -> None:
        """Count a connection out."""
        self.sessions.discard(session)
        self._held.pop(session, None)
        self._by_user[session.peer.uid] -= 1
        if not self._by_user[session.peer.uid]:
            del self._by_user[session.peer.uid]


def claim(path: Path) -> socket.socket:
    """Listen at a path, taking the place of an agent that is dead; raise SocketTaken otherwise.

    Connections wait until `serve`. So an agent owns its socket before it says a word on the bus: of two that are
    started by mistake, the second must not pass for a new boot of the first.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        _clear(path)
        sock.bind(str(path))
        path.chmod(0o660)  # nobody can connect before `listen`, whatever the umask is
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        text = (
            f"cannot listen on {path}: {error.strerror or error}; set `socket:` in node.yaml to a place you may write"
        )
        raise SocketTaken(text) from None
    except SocketTaken:
        sock.close()
        raise
    return sock


async def serve(sock: socket.socket, make: Callable[[], LocalSession]) -> asyncio.AbstractServer:
    """Take the connections that come, and have come, to a claimed socket."""
    sock.setblocking(False)
    return await asyncio.get_running_loop().create_unix_server(make, sock=sock, backlog=BACKLOG)


def identify(transport: asyncio.BaseTransport) -> Peer:
    """Return who is at the other end of a Unix socket, by the system's word."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return Peer(0, -1, frozenset(), None)
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(pid, uid, frozenset({gid, *_supplementary(pid)}), None)


def _supplementary(pid: int) -> Iterable[int]:
    """Return the other groups of a process, none when it is gone already (Groups in proc(5))."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return ()
    listed = next((line for line in lines if line.startswith("Groups:")), "Groups:")
    return [int(group) for group in listed.split()[1:]]


def _clear(path: Path) -> None:
    """Remove the socket of a dead agent; refuse to remove anything else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketTaken(f"{path} is there and is no socket: remove it, or set `socket:` in node.yaml to another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise SocketTaken(f"{path}: {error.strerror}; is another agent starting there?") from None
    raise SocketTaken(f"an agent listens on {path} already: stop it, or set `socket:` in node.yaml to another path")


__all__ = ["Door", "SocketTaken", "claim", "identify", "serve"]
