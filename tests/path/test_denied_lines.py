"""The one line that a call leaves in a log: that policy refused it, and all that is needed to look into it."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from bus_mesh_sdk import options
from bus_mesh_sdk.testing import MeshTest
from test_whole_mesh import Book

from bus_mesh.protocol.errors import PermissionDenied
from bus_mesh.telemetry import log

POLICY = "kind: Service\nname: ledger\naccess: {deny: [{name: closed, from: [test], methods: ['*']}], MODE}\n"
TRACE = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where an agent's log goes."""
    stream, before = io.StringIO(), list(logging.getLogger().handlers)
    log.configure(stream=stream, format="json", node="node-a")
    yield stream
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = before


def denied(stream: io.StringIO) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, stream.getvalue().splitlines()) if line["event"] == "denied"]


async def test_a_denied_call_leaves_all_that_is_needed_to_look_into_it(stream: io.StringIO) -> None:
    async with MeshTest() as t:
        await t.serve(Book())
        t.policy(POLICY.replace("MODE", "mode: enforce"))
        with pytest.raises(PermissionDenied), options(traceparent=f"00-{TRACE[0]}-{TRACE[1]}-01"):
            await t.call("ledger", "read", {"line": "secret"})

    (line,) = denied(stream)
    about = {"caller": "test", "service": "ledger", "method": "read", "rule": "closed", "code": "PERMISSION_DENIED"}
    assert line.items() >= {**about, "policy": 2, "node": "node-a", "level": "warning", "logger": "agent"}.items()
    assert (line["trace_id"], line["span_id"]) == TRACE
    assert "secret" not in json.dumps(line)


async def test_a_call_that_is_only_audited_says_that_it_went_through(stream: io.StringIO) -> None:
    async with MeshTest() as t:
        await t.serve(Book())
        t.policy(POLICY.replace("MODE", "mode: audit"))
        assert await t.call("ledger", "read", {"line": "a"}) == "a"

    found = denied(stream)
    assert [(line["code"], line["audited"], line["rule"]) for line in found] == [("OK", True, "closed")] * 2
    assert "trace_id" not in found[0]
