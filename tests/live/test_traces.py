"""One call through three services, read back from a collector: one trace, the right parents, a retry as a child."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from bus_mesh_sdk import Mesh, options
from mesh_world import World, program, until

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

pytestmark = pytest.mark.timeout(60)
LINKS = {"front": "middle", "middle": "back", "back": ""}
ACCESS = "access: {allow: [{from: ['tester', 'front', 'middle'], methods: ['*']}]}\n"


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP, as a collector does."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        super().__init__(("127.0.0.1", 0), _Taker)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Taker(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        said = ExportTraceServiceRequest.FromString(body)
        assert self.path == "/v1/traces"
        self.server.spans += [span for one in said.resource_spans for scope in one.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[World]:
    policy = "---\n".join(f"kind: Service\nname: {name}\n{ACCESS}" for name in LINKS)
    with World(tmp_path_factory.mktemp("traces"), policy) as world:
        services = {name: {"command": program("chain.py", name, following)} for name, following in LINKS.items()}
        traces = {"otlp": collector.url, "sample": 0.0}
        world.node("node-a", call_as=["tester"], traces=traces)
        world.node("node-b", serve=list(LINKS), call_as=list(LINKS), services=services, traces=traces)
        world.until_up("node-a", dict.fromkeys(LINKS, 1))
        yield world


@pytest.fixture(autouse=True)
def stopped_processes() -> None:
    """The mesh outlives each test here; the world sees to its end."""


async def test_a_call_through_three_services_with_a_retry_is_one_trace(world: World, collector: Collector) -> None:
    trace, root = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    async with Mesh.connect(app="tester", socket=world.nodes["node-a"].socket) as mesh:
        with options(traceparent=f"00-{trace}-{root}-01"):
            seen = await mesh.call("front", "go", {}, timeout=10.0)
    until(lambda: len(collector.spans) >= 11, "all spans have come")

    assert [one.split("-")[1] for one in seen] == [trace] * 3
    spans = {span.span_id.hex(): span for span in collector.spans}
    assert len(spans) == len(collector.spans) == 11, "3 calls, 4 tries, 4 answers"
    assert {span.trace_id.hex() for span in spans.values()} == {trace}

    def chain(span: Any) -> list[str]:
        above = spans.get(span.parent_span_id.hex())
        told = f"{span.name} {'served' if span.kind == span.SPAN_KIND_SERVER else 'asked'}"
        return [*(chain(above) if above is not None else [span.parent_span_id.hex()]), told]

    way = [root]
    for name in LINKS:
        way += [f"{name}/go asked", f"{name}/go try asked", f"{name}/go served"]
    last = [span for span in spans.values() if span.name == "back/go" and span.kind == span.SPAN_KIND_SERVER]
    assert [chain(span) for span in last] == [way, way]
    tries = [span for span in spans.values() if span.name == "back/go try"]
    tries.sort(key=lambda span: span.start_time_unix_nano)
    assert len({span.parent_span_id for span in tries}) == 1, "retries are children of one call"
    assert [(attribute(span, "busmesh.attempt"), span.status.code) for span in tries] == [(1, 2), (2, 0)]
    assert seen[2].split("-")[2] == next(id for id, span in spans.items() if span in last and span.status.code == 0)
    assert attribute(tries[0], "rpc.response.status_code") == "UNAVAILABLE"
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in spans.values())


def attribute(span: Any, name: str) -> Any:
    (value,) = (one.value for one in span.attributes if one.key == name)
    return value.int_value if value.HasField("int_value") else value.string_value


async def test_what_is_not_sampled_makes_no_span_and_calls_go_on_without_a_collector(
    world: World, collector: Collector
) -> None:
    before = len(collector.spans)
    async with Mesh.connect(app="tester", socket=world.nodes["node-a"].socket) as mesh:
        for _ in range(50):
            seen = await mesh.call("front", "go", {}, timeout=10.0)
        assert {one.split("-")[3] for one in seen} == {"00"}
        assert len({one.split("-")[1] for one in seen}) == 1

    assert len(collector.spans) == before
