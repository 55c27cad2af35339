"""The example in the README is code that stands in examples/readme, and a type checker understands it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "readme"
README = (ROOT / "README.md").read_text()
SHOWN = dict(re.findall(r"<!-- (examples/readme/\S+) -->\n```\w+\n(.*?)```\n", README, re.DOTALL))

# file, what stands there, what a tired author writes instead, what mypy calls it
MISTAKES = [
    ("client.py", 'prices.quote("tea", qty=2)', 'prices.quote("tea", qty="2")', "arg-type"),
    ("client.py", "quote.cents}", "quote.euros}", "attr-defined"),
    ("client.py", 'prices.quote("coffee")', 'prices.quotes("coffee")', "attr-defined"),
    ("server.py", "qty: int = 1) -> Quote:", "qty: str = '1') -> Quote:", "override"),
    ("server.py", "return Quote(sku=sku", "return Quote(name=sku", "call-arg"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def mypy(folder: Path, cache: Path) -> str:
    files = sorted(path.name for path in folder.glob("*.py"))
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}", *files]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110).stdout


def test_the_readme_shows_the_files_of_the_example_word_for_word() -> None:
    files = {f"examples/readme/{path.name}": path.read_text() for path in EXAMPLE.iterdir() if path.is_file()}
    del files["examples/readme/README.md"]

    assert files == SHOWN


def test_mypy_finds_nothing_wrong_in_the_example(cache: Path) -> None:
    assert mypy(EXAMPLE, cache) == "Success: no issues found in 3 source files\n"


def test_mypy_finds_each_mistake_planted_in_it(tmp_path: Path, cache: Path) -> None:
    folder = Path(shutil.copytree(EXAMPLE, tmp_path / "readme"))
    planted = set()
    for name, right, wrong, kind in MISTAKES:
        text = (folder / name).read_text()
        assert text.count(right) == 1
        planted.add((name, text[: text.index(right)].count("\n") + 1, kind))
        (folder / name).write_text(text.replace(right, wrong))

    found = re.findall(r"^(\w+\.py):(\d+): error: .*\[([\w-]+)\]$", mypy(folder, cache), re.MULTILINE)

    assert planted <= {(name, int(line), kind) for name, line, kind in found}
