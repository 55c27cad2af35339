"""The page `docs/screens.md`: what commands print, held to it by the tests that have them print it.

BUSMESH_WRITE_SCREENS=1 writes what was printed into the page; else it must be what the page shows, figures aside.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[2] / "docs" / "screens.md"
GREEN: Final = {
    "busmesh stat": ("stat",),
    "busmesh stat -o wide": ("stat", "-o", "wide"),
    "busmesh edges": ("edges",),
    "busmesh top --once": ("top", "--once"),
    "busmesh tap orders --method get --most 3": ("tap", "orders", "--method", "get", "--most", "3"),
    "busmesh status": ("status",),
    "busmesh check": ("check",),
}
CLOCK, STALE = "A clock that is wrong", "Policy that is stale"
ENDED, MISSING = "A certificate that has ended, as its own node sees it", "A node that is missing"
TITLES: Final = (*GREEN, CLOCK, ENDED, MISSING, STALE)
_INTRO: Final = (
    "# Screens\n\nWhat the commands print while `busmesh up --demo` runs.\n"
    "`tests/live/test_views.py` and `test_faults_found.py` make this page, and fail when they print something else,\n"
    "figures aside.\n"
)


def hold(printed: Mapping[str, str]) -> None:
    """Fail unless the page shows what was printed, or have it do so."""
    if os.environ.get("BUSMESH_WRITE_SCREENS"):
        _write(printed)
    shown = blocks()
    for title, text in printed.items():
        assert _masked(text) == _masked(shown[title]), f"{title} is now:\n{text}"


def blocks() -> dict[str, str]:
    """Return what the page shows, by title."""
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    return {one.splitlines()[0].strip("`"): one.partition("```text\n")[2].partition("```")[0] for one in sections}


def _masked(text: str) -> list[str]:
    """Return the lines without figures, in an order that does not depend on them."""
    plain = re.sub(r"node-[ab]-[0-9a-f]{8}", "an instance", text)
    plain = re.sub(r"\d+(\.\d+)?(ms|%|s)?", "#", plain)
    return sorted(re.sub(r" {2,}", "  ", line).strip() for line in plain.strip().splitlines())


def _write(printed: Mapping[str, str]) -> None:
    shown = blocks() | dict(printed)
    titles = {title: f"`{title}`" if title in GREEN else title for title in TITLES}
    sections = [f"## {titles[title]}\n\n```text\n{shown[title]}```\n" for title in TITLES if title in shown]
    PAGE.write_text("\n".join([_INTRO, *sections]))
