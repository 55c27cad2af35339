"""What operators see of a mesh at work: the screens in `docs/screens.md`, made by the commands themselves."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from screens import GREEN, TITLES, blocks, hold
from test_up import BUSMESH, Up, eventually

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("shop") / "home", "--demo") as up:
        assert eventually(lambda: served(up, "orders"), 20)
        yield up


def served(up: Up, service: str) -> bool:
    """Tell whether a service answers calls, by what its callers see."""
    (row,) = json.loads(up.busmesh("stat", service, "-o", "json").stdout)
    return row["rps"] > 5 and row["success"] == 1.0


def test_the_screens_in_the_docs_are_what_the_commands_print(shop: Up) -> None:
    printed = dict(zip(GREEN, (done.stdout for done in shop.busmesh_each(*GREEN.values())), strict=True))

    hold(printed)
    assert tuple(blocks()) == TITLES


def test_a_node_that_stands_still_is_named_and_the_others_are_shown(shop: Up) -> None:
    agent = psutil.Process(shop.ready["nodes"]["node-b"]["pid"])
    agent.send_signal(signal.SIGSTOP)
    try:
        done, checked = shop.busmesh_each(("stat", "-o", "json"), ("check", "-o", "short"))
    finally:
        agent.send_signal(signal.SIGCONT)

    assert done.returncode == 0, done.stderr
    assert {row["service"] for row in json.loads(done.stdout)} >= {"orders"}
    assert "node-b is not in this: no answer from node-b for 3 s" in done.stderr
    assert checked.returncode == 1
    assert "× all 2 nodes answer operators\n    node-b no answer from node-b for 3 s" in checked.stdout
    assert eventually(lambda: shop.busmesh("check", "--wait").returncode == 0, 20)


def test_top_and_watches_go_on_until_they_are_stopped_one_json_line_a_look(shop: Up) -> None:
    environment = {**os.environ, "BUSMESH_HOME": str(shop.home)}
    command = [*BUSMESH, "top", "--window", "200ms", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as top:
        assert top.stdout is not None
        looks = [json.loads(top.stdout.readline()) for _ in range(3)]
        top.terminate()
        top.wait(10)

    assert all({row["from"] for row in look["rows"]} <= {"web", "orders", "cli"} for look in looks)
    assert looks[0]["at"] < looks[1]["at"] < looks[2]["at"]
    assert any(look["rows"] for look in looks)


def test_who_is_no_operator_is_told_so(shop: Up, tmp_path: Path) -> None:
    done = shop.busmesh("stat", "--home", str(tmp_path))

    assert done.returncode != 0
    assert "holds no operator" in done.stderr


def test_without_an_operator_status_shows_what_nodes_announce(shop: Up, tmp_path: Path) -> None:
    done = shop.busmesh("status", "-o", "json", "--home", str(tmp_path))

    own, other = json.loads(done.stdout)["nodes"]
    assert done.returncode == 0, done.stderr
    assert "holds no operator" in done.stderr
    assert (own["bus"], own["state"], own["policy"]) == ("connected", "up", 1)
    assert (other["bus"], other["state"], other["policy"], other["inflight"]) == (None, "up", 1, None)


def test_a_policy_agent_that_stands_still_keeps_status_waiting_for_three_seconds_and_is_named(shop: Up) -> None:
    of_up = psutil.Process(shop.ready["nodes"]["node-a"]["pid"]).parent()
    assert of_up is not None
    (agent,) = [child for child in of_up.children() if "policy-agent" in child.cmdline()]
    agent.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        done = shop.busmesh("status", "-o", "json")
    finally:
        agent.send_signal(signal.SIGCONT)

    assert time.monotonic() - began < 12.0  # it would be over 15 if it waited as those do who change something
    found = json.loads(done.stdout)
    assert found["policy"] is None
    assert "did not answer within 3 s" in found["why"]
    assert [row["state"] for row in found["nodes"]] == ["up", "up"]


def test_on_a_narrow_terminal_no_line_is_longer_than_it_is_wide(shop: Up) -> None:
    shown = subprocess.run(
        ["script", "-qec", f"stty cols 40; {' '.join(BUSMESH)} stat -o wide", "/dev/null"],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "BUSMESH_HOME": str(shop.home), "COLUMNS": "40", "TERM": "dumb"},
    )

    rows = [line for line in shown.stdout.replace("\r", "").splitlines() if line]
    assert len(rows) >= 3, shown
    assert max(map(len, rows)) <= 40
    assert rows[0].endswith("…")


def test_on_a_terminal_up_shows_a_table_that_stays_live(tmp_path: Path) -> None:
    main, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    command = [*BUSMESH, "up", "--demo", "--home", str(tmp_path / "home")]
    with subprocess.Popen(command, stdout=terminal, stderr=subprocess.DEVNULL, env=environment) as up:
        os.close(terminal)
        shown = b""
        try:
            while shown.count(b"policy bundle 1, fresh") < 3:
                shown += os.read(main, 4096)  # ends with the test's own time, or when `up` ends
        finally:
            up.terminate()
            drain = threading.Thread(target=_drain, args=(main,), daemon=True)
            drain.start()
            assert up.wait(30) == 0
    os.close(main)

    first, _, table = shown.decode().replace("\r", "").partition("READY\n")
    assert "try, in another terminal:" in first
    assert re.search(r"orders +4/4 +100\.00% +\d", table)
    assert "nodes   node-a up, node-b up; policy bundle 1, fresh" in table
    assert "\x1b[4F\x1b[J" in table, "drawn in place of the one before"


def _drain(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(descriptor, 4096):
            pass
