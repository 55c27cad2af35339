"""Every command of README, docs/ and examples/04_operate, run against one mesh started as the README says.

A fenced block tagged `sh test` is run, from the top of the repository and with `-e`, so every line of it must succeed;
a `text result` block after it is what it prints. `sh up` starts the mesh and `sh service` a process beside it.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "04_operate" / "README.md"]
FENCE = re.compile(r"^```(sh|text) (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A tagged block: its page, what it is for, and its text; `result` is what must come of it, where that is shown."""

    page: str
    tag: str
    text: str
    result: str | None = None


def blocks_of(page: Path) -> list[Block]:
    found: list[Block] = []
    for kind, tag, text in FENCE.findall(page.read_text()):
        if kind == "text":
            found[-1] = found[-1]._replace(result=text)
        else:
            found.append(Block(page.relative_to(ROOT).as_posix(), tag, text))
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
TESTED = [block for block in BLOCKS if block.tag == "test"]


def the_one(tag: str) -> list[str]:
    (block,) = [block for block in BLOCKS if block.tag == tag]
    return shlex.split(block.text)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a reader's shell has after `. .venv/bin/activate`, with a home of its own."""
    home = tmp_path_factory.mktemp("readme") / "home"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BUSMESH_")}
    return {**kept, "PATH": path, "BUSMESH_HOME": str(home)}


@contextmanager
def until_it_says(word: str, command: list[str], environment: dict[str, str]) -> Iterator[None]:
    """Run a command for the length of a block, which starts once a line of its output is `word`."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        try:
            assert process.stdout is not None
            assert any(line.strip() == word for line in process.stdout), f"{command} ended before it said {word}"
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=40)


@pytest.fixture(scope="module")
def mesh(environment: dict[str, str]) -> Iterator[None]:
    with (
        until_it_says("READY", the_one("up"), environment),
        until_it_says("serving prices", the_one("service"), environment),
    ):
        yield


@pytest.mark.usefixtures("mesh")
@pytest.mark.parametrize("block", TESTED, ids=lambda block: f"{block.page}: {block.text.splitlines()[0][:50]}")
def test_a_command_that_is_printed_works(block: Block, environment: dict[str, str]) -> None:
    command = ["bash", "-euo", "pipefail", "-c", block.text]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=environment)

    assert done.returncode == 0, done.stderr
    assert block.result in (None, done.stdout)


def test_make_up_starts_the_mesh_that_the_readme_speaks_of() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\nup:")[2].splitlines()[1].strip()

    assert recipe == "exec $(BIN)/busmesh up --demo"
    assert the_one("up")[:3] == ["busmesh", "up", "--demo"]
