"""`busmesh receipt verify`: who asked what and who answered what, proven by the root's public key alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from bus_mesh.cli import options, show
from bus_mesh.cli.options import As
from bus_mesh.cli.problem import Problem, usage
from bus_mesh.cli.show import Output

if TYPE_CHECKING:
    from bus_mesh.identity.receipt import Receipt

receipt = typer.Typer(help="Look at receipts of signed calls.", no_args_is_help=True, rich_markup_mode=None)

_ROOT_BYTES: Final = 32


class Entry(NamedTuple):
    """One record of a file: the receipts that it proves, or why it proves none."""

    place: str
    receipts: "list[Receipt]"
    wrong: str


@receipt.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A file of receipts, or an agent's folder of them: STATE/receipts.")],
    root: Annotated[
        Path | None, typer.Option("--root", help="The root's public key [default: root.pub of the home].")
    ] = None,
    output: As = Output.TEXT,
) -> None:
    """Verify receipts and print them: when, caller, node, service/method, the node that answered, OK or the error.

    Needs no agent and no bus. Exits 1 when a receipt does not verify. A record that a crash cut short at the end of a
    file is left out and said.
    """
    key, verified, wrong = _root(root), 0, 0
    for entry in _entries(file, key):
        if entry.wrong:
            wrong += 1
            if output is Output.JSON:
                show.json_line({"place": entry.place, "verified": False, "why": entry.wrong})
            else:
                show.line(f"NOT VERIFIED  {entry.place}: {entry.wrong}")
        for found in entry.receipts:
            verified += 1
            if output is Output.JSON:
                show.json_line(_as_dict(entry.place, found))
            else:
                show.line(_as_text(found))
    show.say(f"{verified} receipts verified, {wrong} records not, in {file}")
    if wrong:
        raise typer.Exit(1)


def _root(given: Path | None) -> bytes:
    path = given or options.home_of(None) / "root.pub"
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        raise usage(f"there is no {path}", "the root's public key says whom to believe", "--root root.pub") from None
    if len(key) != _ROOT_BYTES:
        raise Problem(f"{path} holds {len(key)} bytes", f"the root's public key is {_ROOT_BYTES}")
    return key


def _entries(file: Path, root: bytes) -> Iterator[Entry]:
    """Yield what each record says, in the order in which they were written."""
    from bus_mesh.identity.receipt import verify_receipt
    from bus_mesh.identity.receipt_file import read_receipts
    from bus_mesh.identity.refusal import Untrusted

    for path in _files(file):
        found = read_receipts(path.read_bytes())
        for row in found.rows:
            place = f"{path}, byte {row.offset}"
            if row.record is None:
                yield Entry(place, [], "DAMAGED: these are not the bytes that were written")
                continue
            try:
                yield Entry(place, verify_receipt(row.record, root), "")
            except Untrusted as error:
                yield Entry(place, [], str(error))
        if found.cut:
            show.say(f"{path}: its last record was cut, {found.cut} bytes at {found.whole} are left out")


def _files(file: Path) -> list[Path]:
    """Return the file, or those of a folder, the oldest first."""
    if not file.is_dir():
        return [file]
    found = [path for path in file.glob("receipts.log*") if path.is_file()]
    if not found:
        raise usage(f"there are no receipts in {file}", "an agent keeps some once policy says envelope: signed")
    return sorted(found, key=lambda path: int(path.suffix[1:]) if path.suffix[1:].isdecimal() else 0, reverse=True)


def _as_text(found: "Receipt") -> str:
    failed = found.failed
    ended = "OK" if failed is None else f"{failed.code}/{failed.reason}: {failed.message}"
    asked = f"{_time(found.asked_us)}  {found.caller} on {found.node}  {found.service}/{found.method}"
    text = f"{asked}  answered by {found.answered_by}  {ended}"
    # Names are checked before they come here; what a service wrote into its error is not.
    return text if text.isprintable() else repr(text)


def _as_dict(place: str, found: "Receipt") -> dict[str, Any]:
    failed = found.failed._asdict() if found.failed is not None else None
    times = {"asked_at": _time(found.asked_us), "answered_at": _time(found.answered_us)}
    return {"place": place, "verified": True, **times, **found._asdict(), "failed": failed}


def _time(us: int) -> str:
    from datetime import UTC, datetime, timedelta

    return (datetime.fromtimestamp(0, UTC) + timedelta(microseconds=us)).isoformat(timespec="milliseconds")
