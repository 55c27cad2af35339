"""The pages of a node, against clients that are slow, rude or only curious."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from time import monotonic
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bus_mesh.telemetry.http import PATIENCE, HttpServer
from bus_mesh.telemetry.metrics import Metrics

pytestmark = pytest.mark.alone


class Node:
    def __init__(self) -> None:
        self.metrics = Metrics("1.0.0")
        self.state: tuple[bool, Mapping[str, object]] = (True, {"bus": "connected"})
        self.alive = True
        self.server = HttpServer("127.0.0.1", 0, self.metrics, lambda: self.state, lambda: self.alive, 0.3)

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        try:
            with urlopen(Request(self.server.url + path, method=method), timeout=5) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()

    def connect(self) -> socket.socket:
        return socket.create_connection((self.server.host, self.server.port), timeout=5)


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.server.close()


def test_metrics_are_what_prometheus_reads(node: Node) -> None:
    node.metrics.client.child("orders", "get", "web").record(0, 0.1)

    status, text = node.get("/metrics")
    names = {family.name for family in text_string_to_metric_families(text)}
    assert status == 200
    assert {"busmesh_client_call_duration_seconds", "busmesh_build_info", "busmesh_inflight"} <= names


def test_ready_and_alive_say_so_by_status_and_why_in_json(node: Node) -> None:
    assert node.get("/readyz") == (200, '{"ok": true, "bus": "connected"}\n')
    assert node.get("/healthz")[0] == 200

    node.state, node.alive = (False, {"bus": "away", "policy": 0}), False

    status, text = node.get("/readyz")
    assert (status, json.loads(text)) == (503, {"ok": False, "bus": "away", "policy": 0})
    assert node.get("/healthz")[0] == 503


def test_a_check_that_breaks_is_not_ready_and_tells_no_secret(node: Node) -> None:
    node.state = None  # type: ignore[assignment]

    status, text = node.get("/readyz")
    assert status == 503
    assert json.loads(text)["error"] == "the check itself failed: TypeError"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_only_get_is_answered(node: Node, method: str) -> None:
    assert node.get("/metrics", method)[0] == 405


@pytest.mark.parametrize("path", ["/", "/metric", "/metrics/", "/../metrics", "/%00"])
def test_other_paths_are_not_found(node: Node, path: str) -> None:
    assert node.get(path)[0] == 404


def test_sending_and_taking_together_get_two_seconds() -> None:
    assert 2 * PATIENCE <= 2.0


def test_a_client_that_says_nothing_blocks_the_page_for_one_patience(node: Node) -> None:
    with node.connect():
        began = monotonic()
        status, _ = node.get("/healthz")

    assert (status, monotonic() - began < 0.6) == (200, True)


def test_a_client_that_drips_blocks_the_page_for_one_patience(node: Node) -> None:
    done = threading.Event()
    with node.connect() as slow:
        dripping = threading.Thread(target=drip, args=(slow, done))
        dripping.start()
        began = monotonic()
        status, _ = node.get("/healthz")
        took = monotonic() - began
        done.set()
        dripping.join()

    assert (status, took < 0.6) == (200, True)


def drip(client: socket.socket, done: threading.Event) -> None:
    try:
        client.sendall(b"GET /metrics HTTP/1.1\r\n")
        while not done.wait(0.02):
            client.sendall(b"a")
    except OSError:
        return


@pytest.mark.alone
def test_a_client_that_never_reads_blocks_the_page_for_one_patience(node: Node) -> None:
    for number in range(3_000):
        node.metrics.client.child("orders", "get", f"app{number}").record(0, 0.1)
    with node.connect() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        began = monotonic()
        status, _ = node.get("/healthz")

    # Besides its patience the page took the time to write three thousand series.
    assert (status, monotonic() - began < 1.5) == (200, True)


@pytest.mark.parametrize(
    "rude",
    [b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n", b"A" * 100_000, b"GET /metrics HTTP/9\r\n\r\n", b""],
)
def test_rude_clients_are_dropped_and_the_next_one_is_served(node: Node, rude: bytes) -> None:
    # The page may hang up before it has it all: then sending breaks, or there is nothing left to shut.
    with node.connect() as client, contextlib.suppress(OSError):
        client.sendall(rude)
        client.shutdown(socket.SHUT_WR)

    assert node.get("/healthz")[0] == 200


def test_a_taken_port_is_said_with_the_way_out(node: Node) -> None:
    with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1:\d+ for HTTP: .*set `http:` to another address"):
        HttpServer("127.0.0.1", node.server.port, node.metrics, lambda: (True, {}))


def test_after_close_nothing_listens_and_no_thread_is_left() -> None:
    node = Node()
    node.server.close()

    assert "http" not in [thread.name for thread in threading.enumerate()]
    assert repr(node.server) == f"HttpServer({node.server.url}, closed)"
    with pytest.raises(OSError, match="refused"):
        node.connect()
