"""The last known policy on disk: whole whenever it is read, whatever happened while it was written."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bus_mesh.agent import durable
from bus_mesh.agent.kept_policy import KeptPolicy
from bus_mesh.policy.manifest import hash_of


def named(*parts: bytes) -> dict[str, bytes]:
    return {hash_of(part): part for part in parts}


def test_nothing_is_there_before_the_first_write(tmp_path: Path) -> None:
    kept = KeptPolicy(tmp_path / "policy")

    assert (kept.head(), kept.parts()) == (None, {})
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_is_read_back_and_only_that(tmp_path: Path) -> None:
    kept = KeptPolicy(tmp_path / "policy")
    kept.write(b"head 1", named(b"a", b"b"))
    kept.write(b"head 2", named(b"b", b"c"))
    again = KeptPolicy(tmp_path / "policy")

    assert (again.head(), again.parts()) == (b"head 2", named(b"b", b"c"))


def test_a_part_that_is_not_what_its_name_says_is_not_there_and_is_written_anew(tmp_path: Path) -> None:
    kept = KeptPolicy(tmp_path)
    kept.write(b"head", named(b"a", b"b"))
    (tmp_path / "parts" / hash_of(b"a")).write_bytes(b"A")
    assert kept.parts() == named(b"b")

    kept.write(b"head", named(b"a", b"b"))
    assert kept.parts() == named(b"a", b"b")


def test_other_files_folders_and_far_too_large_ones_are_passed_over(tmp_path: Path) -> None:
    kept = KeptPolicy(tmp_path)
    kept.write(b"head", named(b"a"))
    (tmp_path / "parts" / "README").write_text("hello")
    (tmp_path / "parts" / "folder").mkdir()
    (tmp_path / "head").write_bytes(b"x" * 100_000)

    assert (kept.head(), kept.parts()) == (None, named(b"a"))
    kept.write(b"head", named(b"b"))
    assert (kept.head(), kept.parts()) == (b"head", named(b"b"))


WRITER = """
import sys
from pathlib import Path
from bus_mesh.agent.kept_policy import KeptPolicy
from bus_mesh.policy.manifest import hash_of
kept = KeptPolicy(Path(sys.argv[1]))
for number in range(10**6):
    parts = [b"%d/%d" % (number // 2, n) * 500 for n in range(8)]
    kept.write(b"%d" % (number // 2), {hash_of(part): part for part in parts})
    print(number, flush=True)
"""


def test_kill_9_in_the_middle_of_writing_leaves_a_head_all_of_whose_parts_are_there(tmp_path: Path) -> None:
    for _ in range(8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for _ in range(3):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        writer.stdout.close()
        writer.wait()
        kept = KeptPolicy(tmp_path)
        head = kept.head()
        assert head is not None

        number = int(head)
        assert named(*(b"%d/%d" % (number, n) * 500 for n in range(8))).items() <= kept.parts().items()


def test_a_full_disk_is_said_and_what_was_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = KeptPolicy(tmp_path)
    kept.write(b"head 1", named(b"a"))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        kept.write(b"head 2", named(b"b"))

    assert (kept.head(), kept.parts()) == (b"head 1", named(b"a"))
