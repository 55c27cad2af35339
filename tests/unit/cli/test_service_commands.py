"""What `busmesh service` makes of what nodes answer."""

from typing import Any, cast

import pytest

from bus_mesh.cli.order import NoAnswer, Orderer
from bus_mesh.cli.problem import Problem
from bus_mesh.cli.rolling import Change, rows_of
from bus_mesh.cli.service_logs import parted
from bus_mesh.cli.show import Output


class Nodes:
    """Answers for some nodes: each runs orders; those in `broken` fail at it, those in `gone` do not answer."""

    def __init__(self, names: list[str], broken: str = "", gone: str = "") -> None:
        self.names, self.broken, self.gone = names, broken, gone
        self.asked: list[tuple[str, str, str]] = []

    async def nodes(self) -> list[dict[str, Any]]:
        return [{"node": name} for name in self.names]

    async def ask(self, node: str, verb: str, arguments: dict[str, Any], *, request: str = "") -> Any:
        self.asked.append((node, verb, request))
        if verb == "services":
            return {"node": node, "drained": False, "services": [{"service": "orders", "replicas": []}]}
        if node == self.gone:
            raise NoAnswer(f"no answer from {node} for 12 s", "it may have left")
        if verb != "job":
            return {"job": 1}
        error = "the successor of orders[1] ended with status 1" if node == self.broken else None
        lines = ["one", "two"][arguments["cursor"] :]
        return {"lines": lines, "cursor": 2, "over": True, "done": "2 of orders restarted", "error": error}


def change(nodes: Nodes, output: Output = Output.TEXT) -> tuple[Change, Orderer]:
    words = "service restart orders"
    return Change("restart", {"service": "orders"}, words, "again", output), cast(Orderer, nodes)


async def test_nodes_are_asked_one_after_the_other_by_one_request(capsys: pytest.CaptureFixture[str]) -> None:
    nodes = Nodes(["node-a", "node-b"])
    made, orderer = change(nodes)

    assert await made.run(orderer, None) == 0
    assert [asked for asked in nodes.asked if asked[1] == "restart"] == [
        ("node-a", "restart", "again"),
        ("node-b", "restart", "again"),
    ]
    told = capsys.readouterr().out.splitlines()
    assert told[:3] == ["node-a  one", "node-a  two", "node-a  2 of orders restarted"] and len(told) == 6


@pytest.mark.parametrize(
    ("fault", "what", "again"),
    [
        ({"broken": "node-b"}, "node-b: the successor of orders[1] ended with status 1", ""),
        ({"gone": "node-b"}, "no answer from node-b for 12 s", "--request again "),
    ],
)
async def test_the_first_failure_stops_it_and_says_how_to_go_on(fault: dict[str, str], what: str, again: str) -> None:
    nodes = Nodes(["node-a", "node-b", "node-c"], **fault)
    made, orderer = change(nodes)
    with pytest.raises(Problem) as caught:
        await made.run(orderer, None)

    assert caught.value.what == what
    assert caught.value.why == "done before: node-a 2 of orders restarted; nothing was asked of node-c"
    assert caught.value.then.startswith(f"busmesh service restart orders --node node-b --node node-c {again} ")
    assert not any(node == "node-c" and verb != "services" for node, verb, _ in nodes.asked)


async def test_a_service_that_nobody_runs_is_met_with_a_suggestion() -> None:
    made = Change("stop", {"service": "order"}, "service stop order", "", Output.TEXT)
    with pytest.raises(Problem, match="did you mean orders"):
        await made.run(cast(Orderer, Nodes(["node-a"])), None)


def test_a_service_without_replicas_has_a_row_too() -> None:
    said = {"node": "node-a", "drained": False, "services": [{"service": "orders", "replicas": []}]}

    (row,) = rows_of(said)
    assert (row["service"], row["replica"], row["phase"]) == ("orders", None, "none")
    assert rows_of(said, "other") == []


def test_a_line_is_its_time_and_its_words() -> None:
    assert parted("2026-01-31T12:00:00.000Z hello you") == ("2026-01-31T12:00:00.000Z", "hello you")
    assert parted("the rest of a line") == ("", "the rest of a line")
