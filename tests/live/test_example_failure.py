"""examples/03_failure, run the way its README says: each section in one shell, as a reader has it."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from test_up import Up

from bus_mesh.policy import parse
from bus_mesh.policy.check import check

pytestmark = [pytest.mark.timeout(90), pytest.mark.alone]
ROOT = Path(__file__).parents[2]
README = (ROOT / "examples" / "03_failure" / "README.md").read_text()
FENCE = re.compile(r"^```sh (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
END = re.compile(r"^<<(\d+)>>$")
PATIENCE = 30.0
"""Seconds that a command may say nothing."""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    policy = ROOT / "examples" / "03_failure" / "guarded.yaml"
    with Up(tmp_path_factory.mktemp("failure") / "home", "--serve", "weather", "--policy", str(policy)) as up:
        yield up


class Section:
    """The blocks of one section of the README, and the shell that they are typed into, one after the other."""

    def __init__(self, up: Up, title: str) -> None:
        self.blocks = FENCE.findall(README.partition(f"\n## {title}\n")[2].partition("\n## ")[0])
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BUSMESH_")}
        self._shell = subprocess.Popen(
            ["bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**kept, "PATH": path, "BUSMESH_HOME": str(up.home)},
            start_new_session=True,
        )
        self._said: list[str] = []
        self._text = ""

    def __enter__(self) -> "Section":
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.communicate()

    def step(self, tag: str) -> tuple[int, str]:
        """Type the next block, which must have this tag; return its last failure and what it said."""
        found, self._text = self.blocks.pop(0)
        assert found == tag
        return self.again()

    def again(self) -> tuple[int, str]:
        """Type the same block once more."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"failed=0; trap 'failed=$?' ERR\n{self._text}echo; echo \"<<$failed>>\"\n")
        self._shell.stdin.flush()
        began = len(self._said)
        while (end := END.match(self._line())) is None:
            pass
        return int(end[1]), "".join(self._said[began:])

    def run(self) -> str:
        """Type a block that has to succeed."""
        status, said = self.step("run")
        assert status == 0, said
        return said

    def until(self, tag: str, pattern: str) -> str:
        """Type a block again and again until it says what it should."""
        _, said = self.step(tag)
        end = time.monotonic() + 20.0
        while not re.search(pattern, said):
            assert time.monotonic() < end, said
            _, said = self.again()
        return said

    def serving(self, count: int) -> None:
        """Read on until so many instances have said that callers can find them."""
        self.hears("serving weather ", count)

    def hears(self, start: str, count: int = 1) -> None:
        """Read on until so many lines have begun like this."""
        while sum(line.startswith(start) for line in self._said) < count:
            self._line()

    def _line(self) -> str:
        assert self._shell.stdout is not None
        late = threading.Timer(PATIENCE, os.killpg, (self._shell.pid, signal.SIGKILL))
        late.start()
        line = self._shell.stdout.readline()
        late.cancel()
        assert line, f"the shell ended, or said nothing for {PATIENCE:g} s, after: {''.join(self._said)}"
        self._said.append(line)
        return line


def counted(said: str) -> tuple[int, int]:
    """How many calls of a bench went well, and how many failed."""
    ok, failed = re.findall(r"^\d+ +(\d+) +(\d+) ", said, re.MULTILINE)[-1]
    return int(ok), int(failed)


def share_of(node: str, said: str) -> int:
    """How many calls of a bench the instances of a node answered."""
    return sum(int(calls) for calls in re.findall(rf"^{node}-\w+ +(\d+)$", said, re.MULTILINE))


def test_breaker_and_retry_hide_an_instance_that_fails_every_second_call(up: Up) -> None:
    with Section(up, "A flaky instance") as readme:
        readme.run()
        readme.serving(3)

        status, said = readme.step("bare")
        assert status == 1
        assert "UNAVAILABLE/NO_VIEW" in said
        assert 40 <= counted(said)[1] <= 180  # a sixth of 600 is 100

        assert counted(readme.step("guarded")[1])[1] <= 6
        assert len(re.findall(r" open[ ,]", readme.until("open", r" open[ ,]"))) == 1

        readme.run()
        assert " open" not in readme.until("closed", r"(?s)(?:\sclosed\s.*){3}")
        readme.run()


def test_a_new_version_gets_a_tenth_and_then_half_of_the_calls_while_they_go_on(up: Up) -> None:
    with Section(up, "A new version on trial") as readme:
        readme.run()
        readme.serving(3)

        status, said = readme.step("tenth")
        assert status == 0
        assert 40 <= share_of("node-b", said) <= 130

        assert counted(readme.run()) == (2000, 0)
        status, said = readme.step("half")
        assert status == 0
        assert 320 <= share_of("node-b", said) <= 480

        readme.run()


def test_what_has_no_place_is_refused_with_a_delay_and_served_again_once_there_is_room(up: Up) -> None:
    with Section(up, "Overload") as readme:
        readme.run()
        readme.serving(1)

        status, said = readme.step("burst")
        ok, failed = counted(said)
        assert (status, ok + failed) == (1, 40)
        assert 10 <= ok <= 14  # more than ten when the machine took its time to send them
        assert re.search(rf"^RESOURCE_EXHAUSTED/RESOURCE_EXHAUSTED +{failed}$", said, re.MULTILINE)

        readme.run()
        readme.hears("the first one is told to come back in ")
        said = readme.until("refused", "RESOURCE_EXHAUSTED")
        assert re.search(r"weather at node-a-\w+ is full: 2 calls run and 8 wait", said)
        assert re.search(r"it did not run; try again in [0-9.]+ s", said)

        said = readme.run()
        assert re.search(r"^64 calls answered, after \d+ refusals$", said, re.MULTILINE)
        assert '"sky": "rain"' in said
        readme.run()


def test_no_policy_of_it_has_a_finding() -> None:
    for path in (ROOT / "examples" / "03_failure").glob("*.yaml"):
        assert check(parse(path.read_text(), path.name), datetime.now(UTC)) == []


def test_a_service_that_there_is_not_is_met_with_a_suggestion(up: Up) -> None:
    done = up.busmesh("describe", "service", "weathr")

    assert (done.returncode, done.stdout) == (1, "")
    assert "did you mean weather?" in done.stderr
