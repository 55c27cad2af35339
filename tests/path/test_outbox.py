"""What leaves together travels together: how a turn's frames become envelopes, also on a bus that is away."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from path_world import ROUND_ROBIN, App, Caller, Serving, at

from bus_mesh.agent.outbox import HELD_BYTES, MOST_FRAMES
from bus_mesh.protocol.frames import Call, Reply, encode, fit, named


def nodes(count: int) -> list[Serving]:
    return [Serving(f"n{number}") for number in range(count)]


def sizes(caller: Caller, any_node: Serving) -> list[int]:
    return [len(any_node.open(message)) for message in caller.turn()]


def busy(caller: Caller, app: App, calls: int) -> None:
    """Make calls in one turn; the first leaves at once, being alone so far."""
    for number in range(calls):
        caller.call(app, number)


def test_a_lone_call_leaves_at_once_in_an_envelope_for_the_whole_group() -> None:
    one, two = nodes(2)
    caller = Caller(one, two)
    caller.call(App(), 1)
    (message,) = caller.bus.messages

    assert message.subject == "mesh.demo.rpc.orders.create"
    assert message.reply == f"mesh.demo.none.caller.caller-boot.{message.counter}"
    assert one.open(message) == two.open(message)


def test_a_turn_s_calls_to_a_group_are_dealt_over_its_instances() -> None:
    servings = nodes(3)
    caller = Caller(*servings)
    busy(caller, App(), 1 + 9)

    assert sizes(caller, servings[0]) == [1, 3, 3, 3]


def test_calls_to_one_instance_travel_in_one_envelope() -> None:
    (serving,) = nodes(1)
    caller = Caller(serving, traffic=ROUND_ROBIN)
    busy(caller, App(), 1 + 30)

    assert sizes(caller, serving) == [1, 30]


def test_an_envelope_holds_64_frames_at_most() -> None:
    (serving,) = nodes(1)
    caller = Caller(serving)
    caller.outbox._turn.part = 1000
    busy(caller, App(), 300)

    found = sizes(caller, serving)
    assert (sum(found), max(found)) == (300, MOST_FRAMES)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 150), st.integers(1, 5), st.booleans())
def test_no_call_is_lost_or_sent_twice_however_they_are_dealt(calls: int, count: int, direct: bool) -> None:
    servings = nodes(count)
    caller = Caller(*servings, traffic=ROUND_ROBIN if direct else "")
    busy(caller, App(), calls)
    messages = caller.turn()
    ids = list[int]()
    for message in messages:
        to = next((s for s in servings if s.inbox == message.subject), servings[0])
        ids += [frame.id for frame in to.open(message) if isinstance(frame, Call)]

    assert sorted(ids) == list(range(1, calls + 1))
    assert len(caller.outbox.sent) == len(messages)


def test_an_envelope_takes_a_quarter_of_what_the_bus_carries() -> None:
    (serving,) = nodes(1)
    caller, app = Caller(serving, max_payload=64 * 1024), App()
    caller.call(app, 0)
    for number in range(1, 11):
        frame = Call(1, number, "orders", "create", 500, "", None, b"x" * 5_000)
        caller.outbound.call(app, frame, 0.0)

    assert sizes(caller, serving) == [1, 3, 3, 3, 1]


def test_a_frame_of_its_own_size_is_not_held_back_by_the_quarter() -> None:
    (serving,) = nodes(1)
    caller, app = Caller(serving, max_payload=64 * 1024), App()
    caller.outbound.call(app, Call(1, 1, "orders", "create", 500, "", None, b"x" * 40_000), 0.0)

    assert sizes(caller, serving) == [1]


def test_a_call_given_up_in_the_turn_in_which_it_came_is_not_sent() -> None:
    (serving,) = nodes(1)
    caller, app = Caller(serving), App()
    busy(caller, app, 4)
    caller.outbound.cancel(app, 2, 0.0)
    sent = [frame.id for message in caller.turn() for frame in serving.open(message)]  # type: ignore[union-attr]

    assert sent == [1, 2, 4]
    assert [frame.id for frame in app.told] == [2]


def test_a_call_that_the_bus_does_not_take_did_not_run_and_is_not_tried_again() -> None:
    (serving,) = nodes(1)
    caller, app = Caller(serving), App()
    caller.bus.away = True
    caller.call(app, 1, method="get")

    assert (app.fail.reason, app.fail.head) == ("BUS_STALLED", {"ran": "no"})
    assert caller.outbound.awaiting == caller.outbox.sent == {}


def test_answers_wait_for_the_bus_and_leave_when_it_is_back() -> None:
    (serving,) = nodes(1)
    caller = Caller(serving)
    peer = caller.peer(serving)
    caller.bus.away = True
    for number in range(3):
        caller.outbox.answer(peer, encode(Reply(2, number, None, b"x")))
    caller.turn()
    caller.bus.away = False
    caller.outbox.resume()
    frames = [frame.id for message in caller.turn() for frame in serving.open(message)]  # type: ignore[union-attr]

    assert frames == [0, 1, 2]


def test_of_answers_that_wait_only_the_newest_four_megabytes_are_kept() -> None:
    (serving,) = nodes(1)
    caller = Caller(serving)
    peer, large = caller.peer(serving), b"x" * 200_000
    caller.bus.away = True
    for number in range(40):
        caller.outbox.answer(peer, encode(Reply(2, number, None, large)))
        caller.turn()
    caller.bus.away = False
    caller.outbox.resume()
    frames = [frame.id for message in caller.turn() for frame in serving.open(message)]  # type: ignore[union-attr]

    assert frames == list(range(40 - len(frames), 40))
    assert len(frames) == HELD_BYTES // (len(large) + 10)


def test_the_key_of_a_call_under_way_is_kept_until_all_its_envelope_is_settled() -> None:
    (serving,) = nodes(1)
    caller, app = Caller(serving), App()
    busy(caller, app, 3)
    caller.turn()
    epoch = caller.keyring.hold()
    caller.keyring.release(epoch)

    assert epoch.holds == 2
    for number in (1, 2, 3):
        caller.answered(serving, Reply(2, number, None, b"ok"))
    assert epoch.holds == 0
    assert caller.outbox.sent == {}


@pytest.mark.parametrize("count", [1, 16])
def test_what_fits_into_the_room_fits_into_an_envelope(count: int) -> None:
    servings = nodes(count)
    caller, app = Caller(*servings, max_payload=256 * 1024), App()
    spare = len(encode(Call(1, 1, "orders", "create", 500, "web", None, b""))) + 16
    payload = b"x" * (caller.outbox.room() - spare)
    caller.outbound.call(app, Call(1, 1, "orders", "create", 500, "", None, payload), 0.0)
    (message,) = caller.turn()
    frame = named(fit(servings[-1].keyring.open(message.subject, message.data, at(0)).frames[0]))

    assert isinstance(frame, Call)
    assert frame.payload == payload
