"""Copies of calls to a second service, end to end at the caller's agent: they cost the call nothing and end by
themselves."""

from typing import Any

import pytest
from path_world import App, Caller, Message, Serving, at

from bus_mesh.agent.copies import MOST
from bus_mesh.identity.announcement import Instance as Announced
from bus_mesh.identity.announcement import Offer
from bus_mesh.protocol.frames import Call, Cancel, Fail, Frame, Method, Reply

MIRROR = "mirror: {to: orders-next, percent: 100%}"
NEXT = "---\nkind: Service\nname: orders-next\naccess: {allow: [{from: [web], methods: ['*']}]}\n"
METHODS = (Method("get", True, 0, ""), Method("create", False, 0, ""))


class Next(Serving):
    """A node that serves `orders-next`."""

    def __init__(self) -> None:
        super().__init__("next", serve=("orders-next",))

    def offer(self, *ids: str, state: str = "up") -> bytes:
        instances = tuple(Announced(id, "1", {}, state, 0) for id in ids)
        return self.keyring.announce([Offer("orders-next", instances, METHODS)], at(0))


class Mirroring(Caller):
    """The agent of apps whose calls to `orders` are copied to `orders-next`."""

    def __init__(self, *served_by: Serving, traffic: str = MIRROR, to: str = NEXT) -> None:
        super().__init__(traffic=traffic)
        self.directory.follow("orders-next")
        for serving in served_by:
            self.learn(serving, serving.keyring.own.node + "-1")
        self.enforce(
            "kind: Service\nname: orders\naccess: {allow: [{from: [web, cart], methods: ['*']}]}\n"
            f"traffic: {{{traffic}}}\n{to}"
        )

    @property
    def copied(self) -> list[str]:
        return [which for what, which in self.events if what == "mirrored"]


@pytest.fixture
def one() -> Serving:
    return Serving("n1")


@pytest.fixture
def next_() -> Next:
    return Next()


@pytest.fixture
def app() -> App:
    return App()


def sent(serving: Serving, messages: list[Message]) -> list[Frame]:
    """What a node may open of what was published: all that is addressed to it, or to the group of what it serves."""
    service = "orders-next" if isinstance(serving, Next) else "orders"
    mine = [m for m in messages if m.subject == serving.inbox or f".{service}." in m.subject]
    return [frame for message in mine for frame in serving.open(message)]


def the_call(serving: Serving, messages: list[Message]) -> Call:
    (call,) = sent(serving, messages)
    assert isinstance(call, Call)
    return call


def test_a_copy_says_that_it_is_one_and_carries_what_its_call_does(one: Serving, next_: Next, app: App) -> None:
    caller = Mirroring(one, next_)
    caller.call(app, metadata={"user": "u1"}, idempotency_key="k", ttl_ms=700)
    messages = caller.turn()
    call, copy = the_call(one, messages), the_call(next_, messages)

    assert call.head == {"metadata": {"user": "u1"}, "idempotency_key": "k", "instance": "n1-1"}
    assert (copy.service, copy.method, copy.caller, copy.payload) == ("orders-next", "create", "web", b"params")
    assert copy.head == {"metadata": {"user": "u1"}, "mirrored": True}
    assert copy.ttl_ms == call.ttl_ms
    assert caller.copied == ["sent"]


def test_an_app_cannot_pass_a_call_off_as_a_copy(one: Serving, app: App) -> None:
    caller = Caller(one)
    caller.call(app, mirrored=True)

    assert the_call(one, caller.turn()).head is None


@pytest.mark.parametrize(
    "answer",
    [
        lambda id: Reply(2, id, {"instance": "next-1"}, b"of the copy"),
        lambda id: Fail(3, id, 13, "INTERNAL", "broke", None, {"ran": "yes", "instance": "next-1"}),
        lambda id: Fail(3, id, 14, "DRAINING", "leaving", None, {"ran": "no", "instance": "next-1"}),
        lambda id: Fail(3, id, 14, "OUTCOME_UNKNOWN", "lost", None, {"ran": "maybe", "instance": "next-1"}),
    ],
    ids=["a result", "an error", "leaving", "lost"],
)
def test_what_becomes_of_a_copy_is_dropped_and_it_is_not_tried_again(
    one: Serving, next_: Next, app: App, answer: Any
) -> None:
    caller = Mirroring(one, next_)
    caller.call(app, method="get")
    messages = caller.turn()
    call, copy = the_call(one, messages), the_call(next_, messages)
    caller.answered(next_, answer(copy.id))

    assert (app.told, caller.turn()) == ([], [])
    assert caller.outbound.copies.flights == {}
    caller.answered(one, Reply(2, call.id, None, b"result"))
    assert app.told == [Reply(2, 1, None, b"result")]


def test_a_try_that_is_made_again_is_not_copied_again(one: Serving, next_: Next, app: App) -> None:
    two = Serving("n2")
    caller = Mirroring(one, two, next_)
    caller.call(app, method="get")
    messages = caller.turn()
    call = the_call(one, [m for m in messages if ".orders." in m.subject])
    caller.answered(one, Fail(3, call.id, 14, "DRAINING", "leaving", None, {"ran": "no", "instance": "n1-1"}))
    again = caller.turn()

    assert [message.subject for message in again] == [two.inbox]
    assert caller.copied == ["sent"]


def test_a_copy_is_not_copied(one: Serving, next_: Next, app: App) -> None:
    caller = Mirroring(one, next_, to=f"{NEXT}traffic: {{mirror: {{to: orders, percent: 100}}}}\n")
    caller.call(app)
    messages = caller.turn()

    assert (the_call(one, messages).head, the_call(next_, messages).head) == (None, {"mirrored": True})


def test_what_the_whole_mesh_copies_to_a_service_does_not_copy_that_one_s_own_calls(next_: Next, app: App) -> None:
    caller = Mirroring(next_, traffic="", to=f"{NEXT}---\nkind: Mesh\ntraffic: {{{MIRROR}}}\n")
    caller.outbound.call(app, Call(1, 1, "orders-next", "create", 5000, "", None, b"params"), 0.0)

    assert the_call(next_, caller.turn()).head is None
    assert caller.copied == []


@pytest.mark.parametrize("to", ["", NEXT.replace("web", "cart")], ids=["unknown to policy", "denied"])
def test_a_copy_goes_only_where_its_caller_may_call(one: Serving, next_: Next, app: App, to: str) -> None:
    caller = Mirroring(one, next_, to=to)
    caller.call(app)
    messages = caller.turn()

    assert sent(next_, messages) == []
    assert the_call(one, messages).head is None
    assert caller.outbound.copies.flights == {}


def test_the_call_is_on_its_way_while_nobody_serves_its_copy(one: Serving, app: App) -> None:
    caller = Mirroring(one)
    caller.call(app)
    call = the_call(one, caller.turn())
    assert caller.asked == ["orders-next"]
    caller.answered(one, Reply(2, call.id, None, b"result"))
    caller.wait(2.1)

    assert app.told == [Reply(2, 1, None, b"result")]
    assert (caller.outbound.copies.flights, repr(caller.parts.waiting)) == ({}, "Waiting({})")


def test_a_call_that_is_refused_at_once_is_copied_with_what_it_carried(next_: Next, app: App) -> None:
    fault = "fault: {abort: unavailable, percent: 100, until: 2100-01-01T00:00:00Z}"
    caller = Mirroring(next_, traffic=f"{MIRROR}, {fault}")
    caller.call(app)

    assert app.fail.reason == "FAULT_INJECTED"
    assert the_call(next_, caller.turn()).payload == b"params"


def test_a_copy_that_is_under_way_keeps_nothing_of_what_it_carries(one: Serving, next_: Next, app: App) -> None:
    caller = Mirroring(one, next_)
    caller.call(app)
    caller.turn()

    assert [copy.payload for copy in caller.outbound.copies.flights.values()] == [b""]


def test_so_many_copies_are_under_way_and_no_more(one: Serving, next_: Next, app: App) -> None:
    caller = Mirroring(one, next_)
    for number in range(MOST + 3):
        caller.call(app, number)
    messages = caller.turn()

    assert (caller.copied.count("sent"), caller.copied.count("dropped")) == (MOST, 3)
    assert len(sent(next_, messages)) == MOST
    assert len(sent(one, messages)) == MOST + 3
    caller.wait(5.1)  # a copy has its call's deadline
    assert (caller.outbound.copies.flights, caller.outbound.awaiting) == ({}, {})
    assert [type(frame) for frame in sent(next_, caller.turn())] == [Cancel] * MOST


def test_copies_outlive_their_call_and_a_change_of_policy(one: Serving, next_: Next, app: App) -> None:
    caller = Mirroring(one, next_)
    caller.call(app)
    copy = the_call(next_, caller.turn())
    caller.enforce("kind: Mesh\n")
    caller.outbound.recompile()
    caller.outbound.lost(app, 0.0)
    caller.answered(next_, Reply(2, copy.id, None, b"late"))

    assert caller.outbound.copies.flights == {}
    assert app.told[-1].reason == "CANCELLED"  # type: ignore[union-attr]
