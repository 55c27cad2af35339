from pathlib import Path

import pytest

from bus_mesh.cli.development import locked
from bus_mesh.cli.problem import Problem
from bus_mesh.cli.screen import last_words


def test_a_home_has_one_holder_at_a_time_and_is_free_again_afterwards(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(Problem, match="another `busmesh up`"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_the_last_words_of_a_process_are_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "node-a.log"

    assert last_words(log) == "it said nothing"
    log.write_text("one\n\ntwo\n")
    assert last_words(log, most=1) == "two"
