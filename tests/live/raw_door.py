"""An agent's socket as somebody without the SDK uses it, and what they may say that is no frame."""

import socket
from pathlib import Path

from bus_mesh.protocol.bunches import LENGTH, bunches, read_bunch
from bus_mesh.protocol.frames import Hello, Kind, encode, fit, named


class Door:
    """A raw connection to an agent's socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10.0)
        self._socket.connect(str(path))

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def say(self, frame: tuple[object, ...]) -> None:
        self.send(bunches([encode(frame)]))

    def hear(self) -> tuple[object, ...]:
        (size,) = LENGTH.unpack(self._exactly(4))
        (said,) = read_bunch(self._exactly(size), 0, size)
        return named(fit(said))

    def hello(self, app: str) -> None:
        self.say(Hello(int(Kind.HELLO), 1, app, "raw", None))
        assert self.hear()[0] == Kind.WELCOME

    def ended(self) -> bool:
        """Read to the end, and tell whether there was one."""
        try:
            while self._socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        self._socket.close()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            assert part, "the agent closed the connection"
            data += part
        return data


def bomb(size: int) -> bytes:
    """A frame of lists in lists."""
    return bunches([b"\x93\x01" + b"\x91" * size])


BAD = {
    "a frame of 4 GiB": b"\xff\xff\xff\xff",
    "no MessagePack": LENGTH.pack(64) + b"\xc1" * 64,
    "a frame of an unknown kind": bunches([b"\x92\x7f\x01"]),
    "a nest of 256 Ki lists": bomb(256 * 1024),
    "a frame that may not come first": bunches([b"\x92\x17\x01"]),
}
