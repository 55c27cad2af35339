"""The process that starts children and sees to it that none outlives the owner, `kill -9` of the owner included.

Run as a script with the number of a socket descriptor, its *lifeline*: only the owner holds the other end, so the end
of file there says that the owner is gone, however it went.

    HOLDING ──end of file on the lifeline──▶ KILLING ──no child is left──▶ exit

Standard library only and a single thread: PR_SET_PDEATHSIG fires when the *thread* that forked ends (prctl(2)).
Lines of JSON come in: {"do": "start", "id", "argv", "env", "cwd", "user", "log", "stamp", "token", "limits"}, {"do":
"signal", "id", "signal"}; and go out: {"ready": pid}, {"started": id, "pid"}, {"failed": id, "error"}, {"exited": id,
"status"}.
"""

import contextlib
import ctypes
import json
import os
import pwd
import resource
import select
import selectors
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

if __name__ == "__main__":  # started with -I: nothing is found but the standard library, and what is added here
    sys.path.append(str(Path(__file__).parents[2]))

from bus_mesh.process.mark import MARK
from bus_mesh.process.rotated import Logs

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
SWEEP_SECONDS: Final = 0.005
"""Pause between two passes of killing, for what was killed to vanish and what it forked to show."""
_CLEAN_PASSES: Final = 2  # a walk through /proc can miss one that is just changing parents
_LIMITS: Final = {"memory": resource.RLIMIT_DATA, "open_files": resource.RLIMIT_NOFILE}

# Ignored here, because a Ctrl-C or a `kill` of the group is the owner's to answer; children get the defaults back.
# SIGPIPE and SIGXFSZ are on the list because Python itself ignores them, and what is ignored stays so over an exec.
_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_RESTORED: Final = (*_IGNORED, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD)
_libc: Final = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process, or raise OSError."""
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}): {os.strerror(ctypes.get_errno())}")


class Seen(NamedTuple):
    """One line of the process table."""

    pid: int
    parent: int
    session: int
    alive: bool


def look(pid: int) -> Seen | None:
    """Return what /proc says of a process, None when there is none."""
    try:
        # The name is in brackets and may itself hold brackets and spaces: what is after the last one is regular.
        rest = Path("/proc", str(pid), "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return Seen(pid, int(rest[1]), int(rest[3]), rest[0] not in (b"Z", b"X"))


def living() -> Iterator[Seen]:
    """Every process of the machine that is alive; one that vanishes meanwhile is left out."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            seen = look(int(entry.name))
            if seen is not None and seen.alive:
                yield seen


def kill(pid: int) -> bool:
    """Send SIGKILL; False when there is nothing, or nothing that this user may kill."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def kill_member(pid: int, session: int) -> bool:
    """Kill a process if it is of that session: never another that has meanwhile got its number (pidfd_open(2))."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        handle = os.pidfd_open(pid)
        try:
            seen = look(pid)
            if seen is not None and seen.session == session:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                return True
        finally:
            os.close(handle)
    return False


def marked(pid: int, mark: str) -> bool:
    """Tell whether a process was started with that mark in its environment, or forked from one that was."""
    try:
        return f"{MARK}={mark}".encode() in Path("/proc", str(pid), "environ").read_bytes().split(b"\0")
    except OSError:
        return False


class User(NamedTuple):
    """Whom a child runs as."""

    name: str
    uid: int
    gid: int
    home: str


def look_up(name: str | None) -> User | None:
    """Return the user of that name, None for none; raise LookupError when there is no such user."""
    if name is None:
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise LookupError(f"this machine has no user {name}") from None
    return User(name, entry.pw_uid, entry.pw_gid, entry.pw_dir)


class Start(NamedTuple):
    """What a child is to be: everything that can fail early is already looked up."""

    argv: list[str]
    env: dict[str, str]
    cwd: str | None
    user: User | None
    output: int
    token: int | None
    keeper: int
    limits: dict[str, int]


def become(start: Start) -> NoReturn:
    """Turn this freshly forked process into the child, or raise OSError."""
    os.setsid()
    for number in _RESTORED:
        signal.signal(number, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(start.output, 1)
    os.dup2(start.output, 2)
    env = start.env
    if start.token is not None:
        os.set_inheritable(start.token, True)
        env["BUSMESH_TOKEN_FD"] = str(start.token)
    for name, most in start.limits.items():
        try:
            resource.setrlimit(_LIMITS[name], (most, most))
        except (OSError, ValueError) as error:
            raise OSError(f"limits.{name}: {most} is more than this agent may give: {error}") from None
    if start.user is not None:
        os.initgroups(start.user.name, start.user.gid)
        os.setgid(start.user.gid)
        os.setuid(start.user.uid)
        env.update(HOME=start.user.home, USER=start.user.name, LOGNAME=start.user.name)
    if start.cwd is not None:
        os.chdir(start.cwd)
    # After the change of user, which clears it; and the keeper may have gone before it was set.
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != start.keeper:
        os._exit(1)
    os.execvpe(start.argv[0], start.argv, env)


def fork(start: Start) -> int:
    """Start the child and return its pid; raise OSError with its reason when it could not become what it should."""
    complaint, pen = os.pipe()  # closed by a successful exec: an empty complaint is success
    pid = os.fork()
    if pid == 0:
        try:
            become(start)
        except BaseException as error:
            os.write(pen, f"{error}"[:500].encode())
        os._exit(127)
    os.close(pen)
    with os.fdopen(complaint, "rb") as pipe:
        said = pipe.read().decode()
    if said:
        os.waitpid(pid, 0)
        raise OSError(said)
    return pid


def note(token: str) -> int:
    """Return the reading end of a pipe that holds `token` and then ends (it fits: a pipe holds 64 KiB)."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(token.encode())
    return reading


def start(order: dict[str, Any], keeper: int, output: int) -> int:
    """Carry out a start order and return the pid; raise OSError or LookupError with the reason."""
    user = look_up(order["user"])
    token = None if order["token"] is None else note(order["token"])
    try:
        env = dict(os.environ) if order["env"] is None else dict(order["env"])
        env[MARK] = f"{keeper}.{order['id']}"
        return fork(Start(order["argv"], env, order["cwd"], user, output, token, keeper, order["limits"]))
    finally:
        if token is not None:
            os.close(token)


class _Left:
    """What a child that ended may have left; `clean` counts the passes in a row that found nothing of it."""

    def __init__(self, mark: str) -> None:
        self.mark, self.clean = mark, 0


class Keeper:
    """The children by id, and the two things that happen: an order comes, a child ends."""

    def __init__(self, lifeline: socket.socket) -> None:
        self.lifeline = lifeline
        self.pid = os.getpid()
        self._held = b""
        self._pids: dict[int, int] = {}
        self._ids: dict[int, int] = {}
        self._sweeping: dict[int, _Left] = {}
        self._selector = selectors.DefaultSelector()
        self._logs = Logs(self._selector)

    def hold(self, woken: int) -> None:
        """Answer orders and ends of children, and keep what they print, until the lifeline ends."""
        self._selector.register(self.lifeline, selectors.EVENT_READ)
        self._selector.register(woken, selectors.EVENT_READ)
        while True:
            events = self._selector.select(SWEEP_SECONDS if self._sweeping else None)
            ready = {key.fd for key, _ in events}
            for key, _ in events:
                if key.data is self._logs:
                    self._logs.read(key.fd)
            if woken in ready:
                os.read(woken, 4096)
                self.reap()
            if self._sweeping:
                self._sweep()
            if self.lifeline.fileno() in ready and not self._listen():
                return

    def kill_all(self) -> None:
        """Kill children again and again, and what comes here when its parent dies, until none is left.

        Only children, never their children: nobody but this process can free a child's number for another. And only the
        kernel's word (no child at all) ends it: a walk through /proc can miss one that is just changing parents.
        """
        while self.reap():
            self._logs.catch_up()
            children = [one.pid for one in living() if one.parent == self.pid]
            if children and not sum(kill(pid) for pid in children):
                return  # all that is left has become another user
            select.select([], [], [], SWEEP_SECONDS)

    def reap(self) -> bool:
        """Report children that ended, bury strays that came here to die; False when there is no child at all."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return False
            if ended is None:
                return True
            self._bury(ended.si_pid)

    def _bury(self, pid: int) -> None:
        number = self._ids.pop(pid, None)
        if number is None:
            os.waitpid(pid, 0)
            return
        # Kill the session while its dead leader still holds the number: nobody else can have got it.
        self._sweeping[pid] = _Left(f"{self.pid}.{number}")
        self._sweep()
        self._logs.catch_up()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        del self._pids[number]
        self.report({"exited": number, "status": status})

    def _sweep(self) -> None:
        """Kill what children that ended have left: their sessions, and daemons of theirs that came here."""
        present = list(living())
        for session, left in list(self._sweeping.items()):
            killed = sum(kill_member(one.pid, session) for one in present if one.session == session)
            # Only our own children: nobody but this process can free the number of one for another.
            strays = [one.pid for one in present if one.parent == self.pid and one.pid not in self._ids]
            killed += sum(kill(pid) for pid in strays if marked(pid, left.mark))
            left.clean = 0 if killed else left.clean + 1
            if left.clean >= _CLEAN_PASSES:
                del self._sweeping[session]

    def _listen(self) -> bool:
        try:
            data = self.lifeline.recv(1 << 16)
        except ConnectionError:
            return False
        *lines, self._held = (self._held + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))
        return bool(data)

    def _obey(self, order: dict[str, Any]) -> None:
        number = order["id"]
        if order["do"] == "signal":
            pid = self._pids.get(number)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, order["signal"])
            return
        output = None
        try:
            output = self._output(order)
            pid = start(order, self.pid, 2 if output is None else output)
        except (OSError, LookupError) as error:
            self.report({"failed": number, "error": str(error)})
            return
        finally:
            if output is not None:
                os.close(output)
        self._pids[number], self._ids[pid] = pid, number
        self._sweeping.pop(pid, None)
        self.report({"started": number, "pid": pid})

    def _output(self, order: dict[str, Any]) -> int | None:
        """Return where a child is to print, None for our own standard error."""
        return None if order["log"] is None else self._logs.open(order["log"], stamp=order["stamp"])

    def report(self, said: dict[str, int | str]) -> None:
        """Tell the owner; one that is gone is noticed at the lifeline's end."""
        with contextlib.suppress(OSError):
            self.lifeline.sendall(json.dumps(said).encode() + b"\n")


def main(descriptor: int) -> None:
    """Keep children until the lifeline on `descriptor` ends, then leave none behind."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(descriptor, False)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    keeper = Keeper(socket.socket(fileno=descriptor))
    keeper.report({"ready": keeper.pid})
    try:
        keeper.hold(woken)
    finally:
        keeper.kill_all()


if __name__ == "__main__":
    main(int(sys.argv[1]))
