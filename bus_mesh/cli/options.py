"""Options that several commands take, spelled once."""

import re
from pathlib import Path
from typing import Annotated, Final

import typer

from bus_mesh.cli.problem import usage
from bus_mesh.cli.show import Output

_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SECONDS: Final = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h)")


def seconds(text: str) -> float:
    """Return the seconds that `250ms`, `1s` or `2m` are."""
    found = _SECONDS.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a time: write a number and its unit, like 250ms, 1s or 2m")
    return float(found[1]) * _UNITS[found[2]]


def names(text: str) -> list[str]:
    """Return the names of a list written with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def home_of(given: Path | None) -> Path:
    """Return the home: `--home`, $BUSMESH_HOME, else where state belongs on this system."""
    from bus_mesh.config import home

    return home(given)


def at_least(number: int, least: int, what: str) -> int:
    """Return `number`, or complain that `what` must be `least` or more."""
    if number < least:
        raise usage(f"{what} is {number}", f"it must be {least} or more")
    return number


Home = Annotated[Path | None, typer.Option("--home", help="Where a mesh keeps its keys and state.", show_default=False)]
Socket = Annotated[
    Path | None,
    typer.Option(
        "--socket",
        help="The agent's socket [default: $BUSMESH_SOCKET, a running `busmesh up`, /run].",
        show_default=False,
    ),
]
App = Annotated[str, typer.Option("--app", help="The service to speak as.")]
As = Annotated[Output, typer.Option("-o", "--output", help="How to print the result.")]
By = Annotated[str, typer.Option("--operator", help="Whose key in the home signs it.")]
Timeout = Annotated[float | None, typer.Option("--timeout", parser=seconds, metavar="TIME", help="Like 250ms or 1s.")]
