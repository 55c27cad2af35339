"""Balance and Breaker together, as calls meet them: who gets a call, whose circuit hears how it ended."""

from typing import Any

import pytest
from path_world import App, Caller, Message, Serving

from bus_mesh.balance.directory import Member
from bus_mesh.identity.keyring import Peer
from bus_mesh.protocol.frames import Call, Fail

LEAST = "balance: least_request"


@pytest.fixture
def one() -> Serving:
    return Serving("n1")


@pytest.fixture
def two() -> Serving:
    return Serving("n2")


@pytest.fixture
def app() -> App:
    return App()


def calls(serving: Serving, messages: list[Message]) -> list[Call]:
    return [frame for message in messages for frame in serving.open(message) if isinstance(frame, Call)]


def member(caller: Caller, id: str) -> Member[Peer]:
    found = caller.directory.member("orders", id)
    assert found is not None
    return found


def test_what_never_left_this_agent_says_nothing_of_how_fast_an_instance_is(one: Serving, app: App) -> None:
    caller = Caller(one, traffic=LEAST, max_payload=128 * 1024)
    caller.now = 5000.0
    caller.outbound.call(app, Call(1, 1, "orders", "create", 500, "", None, b"x" * 140_000), caller.now)

    assert app.fail.reason == "PAYLOAD_TOO_LARGE"
    assert member(caller, "n1-1").latency.level is None


def test_an_answer_that_took_long_counts_though_it_is_a_failure(one: Serving, app: App) -> None:
    caller = Caller(one, traffic=LEAST)
    caller.call(app)
    (call,) = calls(one, caller.turn())
    caller.wait(0.5)
    caller.answered(one, Fail(3, call.id, 13, "INTERNAL", "broke", None, {"ran": "yes", "instance": "n1-1"}))

    assert member(caller, "n1-1").latency.seconds == pytest.approx(0.5)


@pytest.mark.parametrize("head", [{"instance": ["n1-1"]}, {"instance": {"n1-1": 1}}, {"instance": 7}])
def test_what_is_no_name_of_an_instance_names_none(one: Serving, app: App, head: dict[str, Any]) -> None:
    caller = Caller(one)
    caller.call(app, **head)

    assert (app.fail.reason, app.fail.head) == ("NO_INSTANCES", {"ran": "no"})


@pytest.mark.parametrize("key", [7, ["a"], b"a", "x" * 1025])
def test_an_idempotency_key_is_text_of_bounded_length(one: Serving, app: App, key: object) -> None:
    caller = Caller(one)
    caller.call(app, idempotency_key=key)

    assert (app.fail.reason, app.fail.head) == ("INVALID_ARGUMENT", {"ran": "no"})
    assert caller.turn() == []
