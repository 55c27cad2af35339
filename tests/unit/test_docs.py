"""The docs point at what is there: files, tests, headings."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = sorted({name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text())})
DEFINED = {name for path in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if not path.startswith("https://"):
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_by_its_path_is_there(page: Path) -> None:
    named = re.findall(r"`((?:bus_mesh|tests|examples|nats)/[\w./]+)`", page.read_text())
    named += [
        f"tests/{name}" for name in re.findall(r"\| ((?:unit|live|contract|path)/[\w/]+\.py) `", page.read_text())
    ]

    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_threat_names_tests_that_stand_in_the_file_it_says() -> None:
    where, wrong = Path(), []
    for file, name in re.findall(r"\b((?:unit|live|contract|path)/[\w/]+\.py)|`(test_\w+)`", PAGES[-1].read_text()):
        if file:
            where = ROOT / "tests" / file
        elif f"def {name}(" not in where.read_text():
            wrong.append((where.name, name))

    assert PAGES[-1].name == "security.md"
    assert wrong == []


@pytest.mark.parametrize("name", NAMED)
def test_every_test_that_the_docs_name_exists(name: str) -> None:
    assert name in DEFINED


def test_the_readme_is_read_in_one_sitting() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 250
