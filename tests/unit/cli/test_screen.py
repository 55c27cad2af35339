from typing import Any

from bus_mesh.agent.restart import Phase
from bus_mesh.agent.supervise import Standing
from bus_mesh.cli import screen
from bus_mesh.cli.plan import Wanted
from bus_mesh.cli.ready import lacking

RUNNING: dict[str, Any] = {
    "bus": "tls://127.0.0.1:4222",
    "home": "/home/x/busmesh",
    "policy": {"http": "http://127.0.0.1:9467", "pid": 10},
    "nodes": {
        "node-a": {"socket": "/home/x/busmesh/node-a/agent.sock", "http": "http://127.0.0.1:9465", "pid": 11},
        "node-b": {"socket": "/home/x/busmesh/node-b/agent.sock", "http": "http://127.0.0.1:9466", "pid": 12},
    },
}
DEMO = Wanted(demo=True, load=20.0, serve=[], call_as=[], policy=[])


def test_the_first_screen_ends_with_ready_and_shows_services_and_three_things_to_try() -> None:
    lines = list(screen.first(RUNNING, DEMO))

    assert lines[-1] == "READY"
    assert "orders   4          node-a,node-b" in lines
    assert sum(line.startswith(("  busmesh", "  kill")) for line in lines) == 3


def test_the_first_screen_says_who_gets_in_at_the_bus_and_what_the_mesh_is_for() -> None:
    lines = list(screen.first(RUNNING, DEMO))

    assert lines[0] == "bus     tls://127.0.0.1:4222  TLS; takes the mesh's own agents and nobody else"
    assert "for development only" in lines[4]


def test_a_mesh_without_services_has_no_table() -> None:
    assert not any(line.startswith("SERVICE") for line in screen.first(RUNNING, DEMO._replace(demo=False)))


def standing(status: int | None, message: str = "") -> Standing:
    return Standing("node-a", 0, Phase.PAUSED, 0, 1, status, message)


def test_an_end_is_told_as_signal_status_or_reason() -> None:
    found = [screen.ended(standing(*case)) for case in ((-9,), (2,), (127, "sh: no such file"))]

    assert found == ["signal 9", "status 2", "sh: no such file"]


def test_what_is_lacking_is_counted_by_service_and_node() -> None:
    wanted = {("orders", "node-a"): 2, ("stock", "node-b"): 1}
    found = [
        {"service": "orders", "node": "node-a", "state": "up"},
        {"service": "orders", "node": "node-a", "state": "joining"},
        {"service": "stock", "node": "node-b", "state": "up"},
    ]

    assert lacking(wanted, found) == "1 of orders on node-a"
    assert lacking({}, found) == ""
