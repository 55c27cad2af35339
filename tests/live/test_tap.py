"""`busmesh tap` beside a mesh at work: live calls of all nodes, bounded, without payload unless allowed."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_up import BUSMESH, Up, eventually

pytestmark = pytest.mark.timeout(60)
POLICY = "kind: Service\nname: orders\naccess: {allow: [{from: [web, cli], methods: ['*']}]}\n"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("shop") / "home", "--demo") as up:
        yield up


def tapped(up: Up, *options: str) -> list[dict[str, Any]]:
    done = up.busmesh("tap", *options, "-o", "json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_calls_show_as_they_end_once_each_and_without_payload(shop: Up) -> None:
    calls = tapped(shop, "orders", "--most", "30")

    assert len(calls) == 30
    assert {(call["service"], call["from"], call["code"]) for call in calls} == {("orders", "web", "OK")}
    assert {call["method"] for call in calls} == {"get", "create"}
    assert all(call["took_ms"] > 0 and call["instance"].startswith("node-") for call in calls)
    assert not any("request" in call for call in calls)


def test_filters_leave_out_what_is_not_wanted(shop: Up) -> None:
    assert {call["method"] for call in tapped(shop, "orders", "--method", "create", "--most", "3")} == {"create"}
    assert {call["from"] for call in tapped(shop, "stock", "--from", "orders", "--most", "2")} == {"orders"}


def test_payload_shows_where_policy_says_so(shop: Up, tmp_path: Path) -> None:
    assert tapped(shop, "orders", "--payload", "--most", "1")[0]["request"] is None
    file = tmp_path / "orders.yaml"
    file.write_text(f"{POLICY}tap: {{payload: true}}\n")
    assert shop.busmesh("policy", "apply", "-f", str(file), "--wait").returncode == 0

    (call,) = tapped(shop, "orders", "--payload", "--method", "get", "--most", "1")
    assert set(call["request"]) == {"id"}
    assert call["answer"]["id"] == call["request"]["id"]


def test_a_reader_that_stops_reading_stops_nothing_and_its_look_is_forgotten(shop: Up) -> None:
    environment = {**os.environ, "BUSMESH_HOME": str(shop.home)}
    with subprocess.Popen([*BUSMESH, "tap", "orders"], stdout=subprocess.PIPE, text=True, env=environment) as tap:
        assert tap.stdout is not None
        assert "web -> orders/" in tap.stdout.readline()
        tap.send_signal(signal.SIGSTOP)
        for _ in range(20):
            assert shop.call("orders", "get", '{"id": "1"}')["id"] == "1"
        tap.kill()

    assert eventually(lambda: len(tapped(shop, "orders", "--most", "1")) == 1)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("orders", "--max-rps", "0"), "--max-rps is 0"),
        (("orders", "--max-rps", "5000"), "1 to 1000 calls a second"),
        (("Orders",), "lower-case"),
    ],
)
def test_nonsense_is_refused_with_what_is_wrong(shop: Up, options: tuple[str, ...], why: str) -> None:
    done = shop.busmesh("tap", *options)

    assert done.returncode != 0
    assert why in done.stderr
