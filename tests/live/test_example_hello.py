"""examples/01_hello, run the way its README says."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2] / "examples" / "01_hello"
BUSMESH = [sys.executable, "-m", "bus_mesh.cli"]


@contextmanager
def until_it_says(first: str, *command: str, home: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command for the length of a block that starts once its first line starts with `first`."""
    environment = {**os.environ, "BUSMESH_HOME": str(home)}
    environment.pop("BUSMESH_SOCKET", None)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(first)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=40)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a mesh that allows the example; each test runs its service."""
    home = tmp_path_factory.mktemp("hello") / "home"
    granted = ["--serve", "hello", "--call-as", "greeter", "--policy", str(HERE / "policy.yaml")]
    with until_it_says('{"ready": true', *BUSMESH, "up", "-o", "json", *granted, home=home):
        yield home


def run(home: Path, *command: str) -> str:
    environment = {**os.environ, "BUSMESH_HOME": str(home)}
    environment.pop("BUSMESH_SOCKET", None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_caller_prints_the_greeting_with_the_name_that_its_agent_stamped(home: Path) -> None:
    with until_it_says("serving hello as ", sys.executable, str(HERE / "service.py"), home=home):
        greeting = run(home, sys.executable, str(HERE / "caller.py"), "Ada")

    assert greeting == "Hello, Ada! (greeter asked for it)\n"


def test_the_command_line_calls_it_without_a_caller_being_written(home: Path) -> None:
    with until_it_says("serving hello as ", sys.executable, str(HERE / "service.py"), home=home):
        greeting = run(home, *BUSMESH, "call", "hello", "greet", '{"name": "Ada"}', "-o", "json")

    assert json.loads(greeting) == "Hello, Ada! (cli asked for it)"
