"""The page that operators and probes read: /metrics, /healthz and /readyz, by GET only.

One thread, one request at a time, and a hard end to each: a client has one second to say what it wants and one to take
the answer, however slowly it drips. The loop of the agent has no part in it.
"""

import contextlib
import io
import json
import os
import select
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, Final, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from bus_mesh import clock
from bus_mesh.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["HttpServer"]

PATIENCE: Final = 1.0
"""Seconds a client has to send its request, and again to take the answer."""
MAX_HEAD: Final = 16 * 1024
"""Bytes of a request's line and headers."""

Ready = Callable[[], tuple[bool, Mapping[str, object]]]
Answer = tuple[str, bytes]


class HttpServer:
    """Serves the metrics and the health of one process until `close`.

    `ready()` returns whether to send work here and the detail to show; `alive()` whether the process is worth keeping.
    Both run on the server's thread, so they may only look. A port of 0 takes a free one: see `port`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        metrics: Metrics,
        ready: Ready,
        alive: Callable[[], bool] = lambda: True,
        patience: float = PATIENCE,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._server = _Server((host, port), family, patience)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            raise OSError(
                error.errno, f"cannot listen on {host}:{port} for HTTP: {reason}; set `http:` to another address or off"
            ) from None
        self._server.set_app(_Pages(metrics, ready, alive))
        self.host, self.port = host, int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the pages are, `http://127.0.0.1:9465`."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def close(self) -> None:
        """Stop listening; blocks for 0.1 s, and twice `patience` more at worst while a request ends."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __repr__(self) -> str:
        return f"HttpServer({self.url}, {'up' if self._thread.is_alive() else 'closed'})"


class _Pages:
    """The WSGI application: a path, a page."""

    def __init__(self, metrics: Metrics, ready: Ready, alive: Callable[[], bool]) -> None:
        self._metrics = make_wsgi_app(metrics.registry)
        self._pages: dict[str, Callable[[], Answer]] = {
            "/healthz": lambda: _health(alive(), {}),
            "/readyz": lambda: _health(*ready()),
        }

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
        if environ["REQUEST_METHOD"] != "GET":
            status, body = "405 Method Not Allowed", b'{"error": "only GET is answered here"}\n'
            headers.append(("Allow", "GET"))
        elif path == "/metrics":
            return cast(Iterable[bytes], self._metrics(environ, start_response))
        elif path in self._pages:
            status, body = _safely(self._pages[path])
        else:
            status, body = "404 Not Found", b'{"error": "here are /metrics, /healthz and /readyz"}\n'
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [body]


def _health(ok: bool, detail: Mapping[str, object]) -> Answer:
    body = json.dumps({"ok": ok, **detail}, default=str).encode() + b"\n"
    return ("200 OK" if ok else "503 Service Unavailable"), body


def _safely(page: Callable[[], Answer]) -> Answer:
    try:
        return page()
    # A probe needs an answer, and a stack must not leave the process.
    except Exception as error:
        return _health(False, {"error": f"the check itself failed: {type(error).__name__}"})


class _Server(WSGIServer):
    request_queue_size = 16
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily, patience: float) -> None:
        self.address_family, self.patience = family, patience
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer asks DNS for the host's full name here, which may hang; nothing uses the answer.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that breaks off is its own affair."""


class _Handler(WSGIRequestHandler):
    """Reads all of the head before it looks at any, and sends all of the answer at once: each within one deadline."""

    def setup(self) -> None:
        super().setup()
        self._patience = cast(_Server, self.server).patience
        self.rfile = io.BytesIO(_head(self.connection, clock.monotonic() + self._patience))
        self.wfile = self._answer = io.BytesIO()

    def finish(self) -> None:
        # The timeout of sendall covers the whole of it, not each part.
        self.connection.settimeout(self._patience)
        with contextlib.suppress(OSError):
            self.connection.sendall(self._answer.getvalue())

    def address_string(self) -> str:
        return str(self.client_address[0])

    def get_stderr(self) -> Any:
        return io.StringIO()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a line for each scrape helps nobody."""


def _head(connection: socket.socket, deadline: float) -> bytes:
    """Return the request up to its empty line; nothing if it does not come by the deadline or is over MAX_HEAD."""
    data = b""
    while b"\r\n\r\n" not in data and b"\n\n" not in data:
        left = deadline - clock.monotonic()
        if left <= 0 or len(data) > MAX_HEAD or not select.select([connection], [], [], left)[0]:
            return b""
        try:
            part = connection.recv(4096)
        except OSError:
            return b""
        if not part:
            return b""
        data += part
    return data
