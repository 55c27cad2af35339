"""What reaches the terminal: data on stdout, talk on stderr; no borders and no colour, so `cut` and `jq` read both."""

import base64
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bus_mesh.cli.apply import Applied


class Output(StrEnum):
    """How a result is printed."""

    TEXT = "text"
    JSON = "json"


class TableOutput(StrEnum):
    """How a table is printed; `wide` has more columns."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


def say(text: str) -> None:
    """Print a line for people, on stderr."""
    print(text, file=sys.stderr, flush=True)


def line(text: str) -> None:
    """Print a line of data, on stdout; end quietly when its reader has gone (`busmesh get nodes | head -1`)."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would complain once more when it flushes at exit, unless stdout leads somewhere by then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None


def json_line(value: Any) -> None:
    """Print `value` as one line of JSON."""
    line(json.dumps(value, ensure_ascii=False, default=_plain))


def json_block(value: Any) -> None:
    """Print `value` as JSON for reading."""
    line(json.dumps(value, ensure_ascii=False, indent=2, default=_plain))


def result(output: Output, row: Mapping[str, Any], text: str) -> None:
    """Print what a command came to: `text`, or with -o json the row."""
    if output is Output.JSON:
        json_line(row)
    else:
        line(text)


def yaml_block(value: Any) -> None:
    """Print `value` as YAML."""
    import yaml

    plain = json.loads(json.dumps(value, ensure_ascii=False, default=_plain))
    line(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).rstrip())


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table: columns as wide as their widest cell, two spaces between, `-` for an empty cell."""
    cells = [list(columns), *([str(cell) if cell not in ("", None) else "-" for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def rows(columns: Sequence[str], found: Iterable[Sequence[object]]) -> None:
    """Print a table; on a terminal no line is longer than that is wide."""
    for text in table(columns, found):
        line(fitted(text))


def fitted(text: str) -> str:
    """Return a line as it fits on the terminal: cut, with an ellipsis; whole where there is none."""
    if not sys.stdout.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return text if len(text) <= width else f"{text[: width - 1]}…"


def clear() -> None:
    """Begin at the top of the terminal again; nothing elsewhere."""
    if sys.stdout.isatty():
        print("\x1b[H\x1b[J", end="", flush=True)


def share(value: float | None) -> str:
    """Return a share in per cent, "" for none."""
    return "" if value is None else f"{100 * value:.2f}%"


def took(seconds: float | None) -> str:
    """Return a latency, "" for none."""
    if seconds is None:
        return ""
    return f"{seconds * 1000:.1f}ms" if seconds < 1 else f"{seconds:.2f}s"


def applied(found: "Applied") -> None:
    """Say how far a bundle has come."""
    say(f"applied by {len(found.applied)}: {', '.join(found.applied) or 'nobody'}")
    for node, reason in found.refused.items():
        say(f"refused by {node}: {reason}")
    if found.missing:
        say(f"no word from {', '.join(found.missing)}")


def age(age_us: int) -> str:
    """Return how long ago something was, in words."""
    seconds = age_us / 1e6
    return f"{seconds:.1f}s ago" if seconds < 120 else f"{seconds / 60:.0f}m ago"


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)
