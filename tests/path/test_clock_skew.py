"""Two agents whose clocks differ: a minute is tolerated, and with an hour between them nothing runs."""

from pathlib import Path

import pytest
from bus_mesh_sdk import MeshError, Ran
from two_agents import pair

MINUTE_US, HOUR_US = 60_000_000, 3_600_000_000


@pytest.mark.parametrize("by_us", [MINUTE_US // 2, -MINUTE_US // 2], ids=["ahead", "behind"])
async def test_calls_pass_between_clocks_that_differ_by_half_a_minute(tmp_path: Path, by_us: int) -> None:
    async with pair(tmp_path, by_us) as two:
        assert await two.mesh.call("ledger", "write", timeout=2.0) == "written"
        assert two.service.runs == 1


@pytest.mark.parametrize("by_us", [HOUR_US, -HOUR_US], ids=["ahead", "behind"])
async def test_nothing_runs_between_clocks_that_differ_by_an_hour_and_why_is_counted(
    tmp_path: Path, by_us: int
) -> None:
    async with pair(tmp_path, by_us) as two:
        with pytest.raises(MeshError) as caught:
            await two.mesh.call("ledger", "write", timeout=1.0)

        assert (two.service.runs, caught.value.ran) == (0, Ran.NO)
        # Behind, the certificates of the others have not begun yet, and one may be refused for that first.
        counted = [node.metrics.envelope_failures.values for node in two.nodes]
        assert any(values.keys() & {"CLOCK_SKEW", "NOT_YET_VALID"} for values in counted), counted


@pytest.mark.parametrize("by_us", [HOUR_US, -HOUR_US], ids=["ahead", "behind"])
async def test_a_word_that_is_out_of_date_is_not_shown_however_often_it_comes(tmp_path: Path, by_us: int) -> None:
    async with pair(tmp_path, by_us) as two:
        for one, other in (two.nodes, two.nodes[::-1]):
            one.watch.ask("ledger")
            for _ in range(3):
                one.watch.learn(other.watch.document)

            view = one.directory.view("ledger")
            assert view is None or other.own.node not in [peer.node for peer in view.peers]
