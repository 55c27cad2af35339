"""The command line as a user meets it: real processes, their words and their exit codes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bus_mesh import __version__


def busmesh(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bus_mesh.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **environment},
    )


def test_version_is_data_on_stdout() -> None:
    done = busmesh("version")

    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")


@pytest.mark.alone
def test_help_comes_in_under_a_quarter_of_a_second() -> None:
    busmesh("--help")
    times = []
    for _ in range(5):
        began = time.monotonic()
        busmesh("--help")
        times.append(time.monotonic() - began)

    assert min(times) < 0.25


def test_help_loads_nothing_that_a_command_would_use() -> None:
    code = "import sys, bus_mesh.cli.main; print(sorted(set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    for heavy in (
        "'nats'",
        "'cryptography'",
        "'pydantic'",
        "'structlog'",
        "'prometheus_client'",
        "'yaml'",
        "'msgpack'",
    ):
        assert heavy not in loaded


def test_help_has_no_escape_sequences_even_where_colour_is_forced() -> None:
    assert "\x1b" not in busmesh("--help", FORCE_COLOR="1").stdout


@pytest.mark.parametrize(
    "arguments", [["nosuch"], ["call", "orders"], ["call", "orders", "get", "{"], ["bench", "a", "b", "--calls", "0"]]
)
def test_what_cannot_be_understood_exits_with_2_and_says_nothing_on_stdout(arguments: list[str]) -> None:
    done = busmesh(*arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert "rror" in done.stderr and "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_met_with_silence() -> None:
    command = f"{sys.executable} -m bus_mesh.cli version | true"

    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30)

    assert done.stderr == ""


def test_a_call_without_an_agent_says_where_it_looked_and_what_to_start(tmp_path: Path) -> None:
    done = busmesh("call", "orders", "get", "--socket", str(tmp_path / "agent.sock"))

    assert done.returncode == 64 + 14
    assert str(tmp_path / "agent.sock") in done.stderr and "busmesh up" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_starts_the_command_with_its_socket_and_app(tmp_path: Path) -> None:
    show = 'echo "$BUSMESH_APP $BUSMESH_SOCKET $1"'

    done = busmesh("run", "--app", "web", "--socket", str(tmp_path / "a.sock"), "--", "sh", "-c", show, "sh", "--app")

    assert (done.returncode, done.stdout) == (0, f"web {tmp_path / 'a.sock'} --app\n")


def test_run_of_a_command_that_is_not_there_is_a_usage_error() -> None:
    done = busmesh("run", "--app", "web", "--socket", "/run/a.sock", "--", "no-such-command-here")

    assert done.returncode == 2
    assert "no such command: no-such-command-here" in done.stderr
