"""The SDK's types, held against mypy: no false error, and every planted mistake found."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "samples"
ROOT = HERE.parents[2]
FOUND = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+): error: .*\[(?P<code>[a-z-]+)\]$", re.MULTILINE)


@pytest.fixture(scope="module")
def found() -> set[tuple[str, int, str]]:
    """What mypy says of both samples: (file, line, code)."""
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--no-error-summary",
        "--cache-dir",
        str(ROOT / ".mypy_cache"),
    ]
    done = subprocess.run(
        [*command, "correct.py", "mistakes.py"], cwd=HERE, capture_output=True, text=True, timeout=110
    )
    assert not done.stderr, done.stderr
    return {(m["file"], int(m["line"]), m["code"]) for m in FOUND.finditer(done.stdout)}


def planted() -> set[tuple[str, int, str]]:
    lines = (HERE / "mistakes.py").read_text().splitlines()
    marked = [(n, line.split("# E: ")[1]) for n, line in enumerate(lines, 1) if "# E: " in line]
    return {("mistakes.py", n, code) for n, codes in marked for code in codes.split()}


def test_correct_code_has_no_errors(found: set[tuple[str, int, str]]) -> None:
    assert not [error for error in found if error[0] != "mistakes.py"]


def test_every_planted_mistake_is_found_and_nothing_else(found: set[tuple[str, int, str]]) -> None:
    assert found == planted()
