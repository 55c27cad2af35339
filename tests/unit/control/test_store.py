"""The policy agent's memory against a plain model, and against what happens to disks and processes."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bus_mesh.control import store
from bus_mesh.control.store import Ack, Bundle, NoSuchBundle, Store, StoreError
from bus_mesh.policy.manifest import DOCUMENT_LIMIT, MOST_DOCUMENTS, Manifest, hash_of


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "policy.db") as opened:
        yield opened


def apply(to: Store, documents: dict[str, bytes], *remove: str) -> Bundle:
    return to.apply(documents, made_by="ops", made_us=1, remove=frozenset(remove))


def contents(of: Store, bundle: Bundle) -> dict[str, bytes | None]:
    return {name: of.document(hash) for name, hash in bundle.manifest.hashes.items()}


NAMES = st.sampled_from([f"Service/{letter}" for letter in "abcd"] + ["Mesh/mesh"])


class Stateful(RuleBasedStateMachine):
    """Applies, removals, rollbacks and restarts, beside a list of dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store(self.folder / "policy.db")
        self.model: list[dict[str, bytes]] = []

    def teardown(self) -> None:
        self.store.__exit__()
        shutil.rmtree(self.folder)

    @rule(documents=st.dictionaries(NAMES, st.binary(max_size=3), max_size=3), remove=st.frozensets(NAMES, max_size=2))
    def apply(self, documents: dict[str, bytes], remove: frozenset[str]) -> None:
        before = self.model[-1] if self.model else {}
        after = {**{name: data for name, data in before.items() if name not in remove}, **documents}
        made = self.store.apply(documents, made_by="ops", made_us=7, remove=remove)
        if not self.model or after != before:
            self.model.append(after)
        assert made.number == len(self.model)

    @rule(number=st.integers(0, 12))
    def roll_back(self, number: int) -> None:
        if 0 < number <= len(self.model):
            made = self.store.rollback(number, made_by="ops", made_us=8)
            self.model.append(self.model[number - 1])
            assert (made.number, made.origin) == (len(self.model), number)
        else:
            with pytest.raises(NoSuchBundle):
                self.store.rollback(number, made_by="ops", made_us=8)

    @rule()
    def restart(self) -> None:
        self.store.__exit__()
        self.store = Store(self.folder / "policy.db")

    @invariant()
    def every_bundle_is_what_the_model_says(self) -> None:
        history = self.store.history()
        assert [bundle.number for bundle in history] == list(range(len(self.model), 0, -1))
        for bundle in history:
            assert contents(self.store, bundle) == self.model[bundle.number - 1]


Stateful.TestCase.settings = settings(
    max_examples=15, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestStore = Stateful.TestCase


def test_an_apply_that_changes_nothing_makes_no_number(kept: Store) -> None:
    first = apply(kept, {"Service/a": b"1"})

    assert apply(kept, {"Service/a": b"1"}) == first
    assert apply(kept, {}, "Service/unknown") == first


def test_only_the_last_bundles_are_kept_with_what_they_list(kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "KEPT_BUNDLES", 3)
    for number in range(6):
        apply(kept, {"Service/a": b"%d" % number, "Service/same": b"same"})

    assert [bundle.number for bundle in kept.history()] == [6, 5, 4]
    assert kept.document(hash_of(b"2")) is None
    assert kept.document(hash_of(b"3")) == b"3"
    assert kept.document(hash_of(b"same")) == b"same"
    with pytest.raises(NoSuchBundle, match="there are 4 to 6"):
        kept.rollback(3, made_by="ops", made_us=1)


def test_what_is_too_large_is_refused_and_changes_nothing(kept: Store) -> None:
    apply(kept, {"Service/a": b"1"})
    with pytest.raises(StoreError, match=r"Service/b takes \d+ bytes, over the limit"):
        apply(kept, {"Service/a": b"2", "Service/b": b"x" * (DOCUMENT_LIMIT + 1)})
    with pytest.raises(StoreError, match="documents, over the limit"):
        apply(kept, {f"Service/s{number}": b"" for number in range(MOST_DOCUMENTS + 1)})

    assert kept.number == 1
    assert contents(kept, kept.history()[0]) == {"Service/a": b"1"}


def test_what_agents_said_last_is_kept_and_forgotten(kept: Store) -> None:
    kept.acknowledge(Ack("node-b", 1, "", 100, 5))
    kept.acknowledge(Ack("node-a", 1, "hash mismatch", 0, 6))
    kept.acknowledge(Ack("node-b", 2, "", 90, 7))

    assert [(ack.node, ack.number, ack.applied) for ack in kept.acks()] == [("node-a", 1, False), ("node-b", 2, True)]
    kept.forget("node-a")
    assert [ack.node for ack in kept.acks()] == ["node-b"]


WRITER = """
import sys
from pathlib import Path
from bus_mesh.control.store import Store
with Store(Path(sys.argv[1])) as store:
    for number in range(10**6):
        store.apply({f"Service/s{n}": b"%d" % number for n in range(20)}, made_by="w", made_us=number)
        print(store.number, flush=True)
"""


def test_kill_9_in_the_middle_of_writing_leaves_whole_bundles_and_all_that_was_answered(tmp_path: Path) -> None:
    path = tmp_path / "policy.db"
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        answered = [writer.stdout.readline() for _ in range(5)]
        writer.send_signal(signal.SIGKILL)
        answered += writer.stdout.readlines()
        writer.stdout.close()
        writer.wait()
        with Store(path) as after:
            assert after.number >= int([line for line in answered if line.endswith("\n")][-1])
            for bundle in after.history():
                assert len(set(contents(after, bundle).values())) == 1, "a bundle of two applies"
                assert None not in contents(after, bundle).values()


def test_a_full_disk_is_said_and_what_was_there_stays(kept: Store) -> None:
    before = apply(kept, {"Service/a": b"1"})
    (pages,) = kept._database.execute("PRAGMA page_count").fetchone()
    kept._database.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreError, match="its disk is full: make room"):
        apply(kept, {"Service/a": b"x" * 100_000})

    assert kept.current() == before
    assert apply(kept, {"Service/a": b"2"}).number == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write whatever its mode is")
def test_a_read_only_store_is_said_by_mode(tmp_path: Path) -> None:
    path = tmp_path / "policy.db"
    Store(path).__exit__()
    path.chmod(0o400)
    with Store(path) as opened, pytest.raises(StoreError, match="read-only"):
        apply(opened, {"Service/a": b"1"})


def test_a_read_only_store_is_said(kept: Store) -> None:
    apply(kept, {"Service/a": b"1"})
    kept._database.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreError, match="it is read-only"):
        apply(kept, {"Service/a": b"2"})

    assert kept.number == 1


def test_two_that_write_at_once_wait_for_each_other_and_then_say_so(tmp_path: Path) -> None:
    path = tmp_path / "policy.db"
    with Store(path) as one, Store(path) as other:
        apply(one, {"Service/a": b"1"})
        assert apply(other, {"Service/b": b"2"}).number == 2
        other._database.execute("PRAGMA busy_timeout = 10")
        one._database.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="is a second policy agent running"):
            apply(other, {"Service/b": b"3"})
        one._database.execute("ROLLBACK")

        assert apply(one, {"Service/c": b"4"}).manifest == Manifest.of(
            {"Service/a": b"1", "Service/b": b"2", "Service/c": b"4"}
        )


def test_what_is_no_store_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is a text file, and a long one " * 20)
    with pytest.raises(StoreError, match="it is no store: name another file"):
        Store(tmp_path / "text.db")
    with pytest.raises(StoreError, match="make its directory"):
        Store(tmp_path / "nowhere" / "policy.db")


def test_a_store_of_the_version_before_keeps_its_bundles_and_learns_of_tokens(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "policy.db")
    database.executescript(store._POLICY)
    database.execute("INSERT INTO ack VALUES ('a', 1, '', 1, 1)")
    database.execute("PRAGMA user_version = 1")
    database.commit()
    database.close()

    with Store(tmp_path / "policy.db") as opened:
        assert [ack.node for ack in opened.acks()] == ["a"]
        assert opened.token("x") is None
    with Store(tmp_path / "policy.db") as again:
        assert again.renewal("x") is None


def test_a_store_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "policy.db"
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()

    with pytest.raises(StoreError, match="version 99 and this bus-mesh knows 2"):
        Store(path)
