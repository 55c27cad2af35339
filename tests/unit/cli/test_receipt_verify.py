"""`busmesh receipt verify`, as a person runs it, on what two agents in one process have signed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from bus_mesh_sdk import NotFound, Service, rpc
from bus_mesh_sdk.testing import MeshTest
from typer.testing import CliRunner, Result

from bus_mesh.agent.receipts import ReceiptLog
from bus_mesh.cli.main import app
from bus_mesh.identity.receipt_file import pack_receipt, read_receipts

POLICY = """\
kind: Service
name: shelf
access: {allow: [{from: ["*"], methods: ["*"]}]}
envelope: signed
"""


class Shelf(Service, name="shelf"):
    @rpc
    async def fetch(self, title: str) -> str:
        raise NotImplementedError


class Books(Shelf):
    async def fetch(self, title: str) -> str:
        if title != "tea":
            raise NotFound(f"no {title}")
        return "leaf"


def verify(file: Path, *more: str | Path) -> Result:
    return CliRunner().invoke(app, ["receipt", "verify", str(file), *map(str, more)])


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """Receipts of a call that succeeded and of one that failed, and the root's public key beside them."""
    log = ReceiptLog(tmp_path / "receipts")
    async with MeshTest() as t:
        t.policy(POLICY)
        await t.serve(Books())
        caller = (await t.mesh(), t._network.nodes["node-2"])[1]
        caller.outbox.receipts.keep = log.put
        assert await t.call(Shelf.fetch, "tea") == "leaf"
        with pytest.raises(NotFound):
            await t.call(Shelf.fetch, "a\x1b[31mbomb")
        await t.advance(0.0)
        (tmp_path / "root.pub").write_bytes(caller.own.root)
    await log.close()
    return tmp_path


@pytest.mark.parametrize("name", ["receipts", "receipts/receipts.log"])
def test_each_receipt_is_told_with_who_when_what_and_how_it_ended(folder: Path, name: str) -> None:
    done = verify(folder / name, "--root", folder / "root.pub")

    assert (done.exit_code, "2 receipts verified, 0 records not" in done.stderr) == (0, True)
    first, second = done.stdout.splitlines()
    assert first[4] == "-" and first[23:].startswith("+00:00")
    assert first.endswith("  test on node-2  shelf/fetch  answered by node-1  OK")
    assert "NOT_FOUND/NOT_FOUND: no a" in second and "\x1b" not in second


def test_json_has_what_was_asked_and_answered(folder: Path) -> None:
    done = verify(folder / "receipts", "--root", folder / "root.pub", "-o", "json")

    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["verified"], first["caller"], first["failed"]) == (True, "test", None)
    assert first["request"] and first["answer"]
    assert (second["failed"]["code"], second["answer"]) == ("NOT_FOUND", "")


def test_the_home_s_root_is_believed_unless_told_otherwise(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUSMESH_HOME", str(folder))
    assert verify(folder / "receipts").exit_code == 0

    (folder / "root.pub").write_bytes(bytes(range(32)))
    other = verify(folder / "receipts")
    assert other.exit_code == 1
    assert other.stdout.count("NOT VERIFIED") == 2
    assert "BAD_SIGNATURE" in other.stdout and "0 receipts verified, 2 records not" in other.stderr


def changed(data: bytes) -> bytes:
    return data.replace(b"fetch", b"fetck", 1)


def resealed(data: bytes) -> bytes:
    """The same with checksums that fit: an accident would not, a forger does."""
    return b"".join(pack_receipt(changed(row.record or b"")) for row in read_receipts(data).rows)


@pytest.mark.parametrize(("change", "told"), [(changed, "DAMAGED"), (resealed, "BAD_SIGNATURE: the request is not")])
def test_a_changed_byte_is_found_and_the_reason_told(folder: Path, change: Callable[[bytes], bytes], told: str) -> None:
    file = folder / "receipts" / "receipts.log"
    file.write_bytes(change(file.read_bytes()))
    done = verify(file, "--root", folder / "root.pub")

    assert done.exit_code == 1
    assert told in done.stdout
    told_as_json = json.loads(verify(file, "--root", folder / "root.pub", "-o", "json").stdout.splitlines()[0])
    assert told_as_json["verified"] is False


def test_a_record_cut_by_a_crash_is_left_out_and_said(folder: Path) -> None:
    file = folder / "receipts" / "receipts.log"
    file.write_bytes(file.read_bytes()[:-1])
    done = verify(file, "--root", folder / "root.pub")

    assert (done.exit_code, len(done.stdout.splitlines())) == (0, 1)
    assert "its last record was cut" in done.stderr


def test_files_of_a_folder_are_read_in_the_order_in_which_they_were_written(folder: Path) -> None:
    file = folder / "receipts" / "receipts.log"
    first, second = (pack_receipt(row.record or b"") for row in read_receipts(file.read_bytes()).rows)
    file.write_bytes(second)
    file.with_name("receipts.log.1").write_bytes(first)
    done = verify(file.parent, "--root", folder / "root.pub")

    assert [line.endswith("OK") for line in done.stdout.splitlines()] == [True, False]


def test_what_is_not_there_is_named(folder: Path) -> None:
    for file, root in ((folder, folder / "root.pub"), (folder / "receipts", folder / "nowhere")):
        done = verify(file, "--root", root)
        assert done.exit_code != 0
        assert "there " in str(done.exception)
