"""What every bus keeps: each test runs on the bus in memory and on a real nats-server."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from bus_mesh.bus.contract import BACKLOG_LIMIT, HEADERS_LIMIT, SUBJECT_LIMIT, Bus, BusState, BusUnreachable, Handler

if TYPE_CHECKING:
    from tests.contract.conftest import Broker

Until = Callable[[Callable[[], bool]], Awaitable[None]]


class Got:
    """A handler that keeps what it gets."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, bytes, int]] = []

    def __call__(self, subject: str, reply: str, data: bytes, status: int) -> None:
        self.all.append((subject, reply, data, status))

    @property
    def data(self) -> list[bytes]:
        return [data for _, _, data, _ in self.all]


async def test_a_message_arrives_as_it_was_sent(bus: Bus, other: Bus, until: Until) -> None:
    got = Got()
    await other.subscribe("a.b", got)

    assert bus.publish("a.b", b"\x00\xff", "r.1")

    await until(lambda: len(got.all) == 1)
    assert got.all == [("a.b", "r.1", b"\x00\xff", 0)]


async def test_a_message_with_headers_arrives_without_them(bus: Bus, other: Bus, until: Until) -> None:
    got = Got()
    await other.subscribe("_INBOX.a", got)

    assert bus.publish_headed(
        "_INBOX.a", {"Nats-Service-Error": "no\r\nX: y", "Nats-Service-Error-Code": "401"}, b"why"
    )
    assert bus.publish_headed("_INBOX.a", {}, b"")
    assert bus.publish("_INBOX.a", b"after")

    await until(lambda: len(got.all) == 3)
    assert got.all == [("_INBOX.a", "", data, 0) for data in (b"why", b"", b"after")]
    with pytest.raises(ValueError, match=r"not a subject|blank"):
        bus.publish_headed("a b", {}, b"")
    assert not bus.publish_headed("_INBOX.a", {}, bytes(bus.max_payload + 1))
    assert not bus.publish_headed("_INBOX.a", {"Why": "x" * 5000}, bytes(bus.max_payload - 4096)), "headers count too"
    assert not bus.publish_headed("a" * (SUBJECT_LIMIT + 1), {}, b"")
    assert bus.publish_headed("_INBOX.a", {"Why": "x" * 4000}, bytes(bus.max_payload - 4096))
    await until(lambda: len(got.all) == 4)


async def test_headers_are_there_for_who_asks_for_them(bus: Bus, other: Bus, until: Until) -> None:
    heard: list[tuple[str, dict[str, str], bytes, int]] = []
    await other.subscribe_headed("_INBOX.a", lambda subject, said, *rest: heard.append((subject, dict(said), *rest)))
    got = Got()
    await other.subscribe("asked", got)

    assert bus.publish_headed("_INBOX.a", {"Code": "401", "Why": "a: b\r\nCode: 1", "Who": "\u00e9"}, b"x")
    assert bus.publish("_INBOX.a", b"y")
    assert bus.publish_headed("asked", {"traceparent": "00"}, b"z", "_INBOX.r")
    await until(lambda: len(heard) == 2 and len(got.all) == 1)

    said = {"Code": "401", "Why": "a: b Code: 1", "Who": "\u00e9"}
    assert heard == [("_INBOX.a", said, b"x", 0), ("_INBOX.a", {}, b"y", 0)]
    assert got.all == [("asked", "_INBOX.r", b"z", 0)]


async def test_headers_without_end_are_read_so_far(bus: Bus, other: Bus, until: Until) -> None:
    heard: list[dict[str, str]] = []
    await other.subscribe_headed("_INBOX.a", lambda subject, said, *rest: heard.append(dict(said)))

    assert bus.publish_headed("_INBOX.a", {f"h{number}": "x" * 100 for number in range(500)}, b"data")
    await until(lambda: len(heard) == 1)

    assert 70 <= len(heard[0]) <= HEADERS_LIMIT // 100


async def test_who_asks_for_headers_hears_that_nobody_is_there(bus: Bus, until: Until) -> None:
    heard: list[int] = []
    subscription = await bus.subscribe_headed("_INBOX.a", lambda subject, said, data, status: heard.append(status))

    bus.publish_headed("nobody", {"traceparent": "00"}, b"", "_INBOX.a")
    bus.publish("nobody", b"", "_INBOX.a")
    await until(lambda: len(heard) == 2)
    await subscription.unsubscribe()

    assert heard == [503, 503]


async def test_a_bus_hears_itself_but_never_within_publish(bus: Bus, until: Until) -> None:
    got = Got()
    await bus.subscribe("a", got)

    bus.publish("a", b"")

    assert got.all == []
    await until(lambda: len(got.all) == 1)


async def test_messages_of_one_publisher_arrive_in_order(bus: Bus, other: Bus, until: Until) -> None:
    got = Got()
    await other.subscribe("a.*", got)

    for number in range(5000):
        bus.publish(f"a.{number % 7}", str(number).encode())

    await until(lambda: len(got.all) == 5000)
    assert got.data == [str(number).encode() for number in range(5000)]


@pytest.mark.parametrize(
    ("pattern", "hit", "miss"),
    [
        ("a.*", ["a.b", "a.*"], ["a", "a.b.c", "b.a"]),
        ("a.>", ["a.b", "a.b.c"], ["a", "b.c"]),
        ("*.b.*", ["a.b.c"], ["a.b", "a.c.c"]),
        (">", ["a", "a.b"], []),
    ],
)
async def test_wildcards_take_what_they_should(
    bus: Bus, until: Until, pattern: str, hit: list[str], miss: list[str]
) -> None:
    got, end = Got(), Got()
    await bus.subscribe(pattern, got)
    await bus.subscribe("end", end)

    for subject in [*hit, *miss, "end"]:
        bus.publish(subject, b"")

    await until(lambda: len(end.all) == 1)
    assert [subject for subject, *_ in got.all if subject != "end"] == hit


async def test_each_message_to_a_group_reaches_one_member(broker: "Broker", bus: Bus, until: Until) -> None:
    alone, members = Got(), [Got() for _ in range(4)]
    await bus.subscribe("work.*", alone)
    for member in members:
        await (await broker.connect()).subscribe("work.*", member, "workers")

    for number in range(2000):
        bus.publish("work.a", str(number).encode())

    await until(lambda: sum(len(member.all) for member in members) >= 2000 and len(alone.all) == 2000)
    assert Counter(data for member in members for data in member.data).most_common(1)[0][1] == 1
    assert all(len(member.all) > 300 for member in members)


async def test_several_members_on_one_connection_weigh_as_several(broker: "Broker", bus: Bus, until: Until) -> None:
    many, one = Got(), Got()
    crowded, lonely = await broker.connect(), await broker.connect()
    for _ in range(3):
        await crowded.subscribe("work", many, "workers")
    await lonely.subscribe("work", one, "workers")

    for _ in range(2000):
        bus.publish("work", b"")

    await until(lambda: len(many.all) + len(one.all) == 2000)
    assert 0.6 < len(many.all) / 2000 < 0.9


async def test_nobody_there_is_said_at_once_on_the_reply_subject(bus: Bus, until: Until) -> None:
    got = Got()
    await bus.subscribe("none.*", got)

    bus.publish("nobody.home", b"hello", "none.7")

    await until(lambda: len(got.all) == 1)
    assert got.all == [("none.7", "", b"", 503)]


async def test_nobody_there_is_not_said_when_somebody_is(bus: Bus, until: Until) -> None:
    said, got = Got(), Got()
    await bus.subscribe("none.*", said)
    await bus.subscribe("somebody", got, "group")

    bus.publish("somebody", b"", "none.1")
    bus.publish("nobody", b"", "none.2")

    await until(lambda: len(said.all) == 1)
    assert said.all[0][0] == "none.2"


async def test_after_subscribe_no_message_is_missed(broker: "Broker", bus: Bus, until: Until) -> None:
    other = await broker.connect()
    for run in range(50):
        got = Got()
        await other.subscribe(f"run.{run}", got)

        bus.publish(f"run.{run}", b"first")

        await until(lambda got=got: got.data == [b"first"])  # type: ignore[misc]


async def test_drain_keeps_what_was_delivered(bus: Bus, other: Bus) -> None:
    for run in range(20):
        got, kept = Got(), Got()
        subscription = await other.subscribe("a", got, "group")
        rest = await bus.subscribe("a", kept, "group")

        for number in range(2000):
            bus.publish("a", str(number).encode())
            if number == 1000:
                draining = asyncio.ensure_future(subscription.drain())
            if number % 100 == 0:
                await asyncio.sleep(0)
        await draining
        await rest.drain()

        assert len(got.all) + len(kept.all) == 2000, f"lost in run {run}"


async def test_after_drain_and_unsubscribe_nothing_comes(bus: Bus, until: Until) -> None:
    drained, dropped, end = Got(), Got(), Got()
    one = await bus.subscribe("a", drained)
    two = await bus.subscribe("a", dropped)
    await bus.subscribe("a", end)

    await one.drain()
    await two.unsubscribe()
    bus.publish("a", b"")

    await until(lambda: len(end.all) == 1)
    assert drained.all == dropped.all == []


async def test_a_handler_that_raises_gets_the_next_message(
    bus: Bus, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    got = Got()

    def fail(subject: str, reply: str, data: bytes, status: int) -> None:
        got(subject, reply, data, status)
        raise RuntimeError("broken")

    await bus.subscribe("a", fail)
    bus.publish("a", b"1")
    bus.publish("a", b"2")

    await until(lambda: len(got.all) == 2)
    assert bus.handler_errors == 2
    assert "the handler of a failed" in caplog.text


async def test_what_is_published_together_arrives_in_order_and_each_has_its_own_verdict(
    bus: Bus, other: Bus, until: Until
) -> None:
    got = Got()
    await other.subscribe("a", got)

    assert bus.publish_all([]) == []
    large, long = bytes(bus.max_payload + 1), "x" * 4096
    assert bus.publish_all([("a", b"1", ""), ("a", large, ""), ("a", b"2", "r"), ("a", b"3", long)]) == [
        True,
        False,
        True,
        False,
    ]

    await until(lambda: len(got.all) == 2)
    assert got.all == [("a", "", b"1", 0), ("a", "r", b"2", 0)]


async def test_a_payload_over_the_limit_is_refused_and_the_bus_stays(bus: Bus, other: Bus, until: Until) -> None:
    got = Got()
    await other.subscribe("a", got)

    assert not bus.publish("a", bytes(bus.max_payload + 1))
    assert bus.publish("a", bytes(bus.max_payload))

    await until(lambda: len(got.all) == 1)
    assert bus.state is BusState.CONNECTED


async def test_a_subject_over_the_limit_is_refused_and_the_bus_stays(bus: Bus, other: Bus, until: Until) -> None:
    got, long = Got(), "a." + "ü" * 996
    await other.subscribe("a.*", got)

    assert not bus.publish(long + "üü", b"", "r")
    assert bus.publish(long, b"", "r")
    assert bus.publish("a.b", b"")

    await until(lambda: len(got.all) == 2)
    assert bus.state is BusState.CONNECTED


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB b 0\r\n\r\n", "a\t"])
async def test_a_hostile_subject_never_reaches_the_broker(bus: Bus, subject: str) -> None:
    with pytest.raises(ValueError, match="is not a subject"):
        bus.publish(subject, b"")
    with pytest.raises(ValueError, match="is not a"):
        await bus.subscribe(subject, Got())


@pytest.mark.parametrize("pattern", ["a..b", ".a", "a.", "a.>.b", ">.>", "a.b*", "a>"])
async def test_what_is_no_pattern_is_refused(bus: Bus, pattern: str) -> None:
    with pytest.raises(ValueError, match="is not a pattern"):
        await bus.subscribe(pattern, Got())


async def test_a_lost_broker_is_noticed_and_nothing_is_published(broker: "Broker", bus: Bus, until: Until) -> None:
    seen: list[BusState] = []
    bus.on_state(seen.append)

    await broker.stop()

    await until(lambda: bus.state is BusState.DISCONNECTED)
    assert seen == [BusState.DISCONNECTED]
    assert not bus.publish("a", b"")
    assert bus.backlog == 0
    assert bus.last_error
    with pytest.raises(BusUnreachable, match="no bus at"):
        await bus.ready(0.01)


async def test_subscriptions_survive_the_broker_and_nothing_is_replayed(
    broker: "Broker", bus: Bus, other: Bus, until: Until
) -> None:
    got, late = Got(), Got()
    await other.subscribe("a", got)
    ended = await other.subscribe("a", late)
    await broker.stop()
    await until(lambda: bus.state is other.state is BusState.DISCONNECTED)
    for _ in range(10):
        bus.publish("a", b"while away")
    await other.subscribe("b", late)
    await ended.unsubscribe()

    await broker.start()

    await until(lambda: bus.state is other.state is BusState.CONNECTED)
    assert bus.publish("a", b"after")
    assert bus.publish("b", b"after")
    await until(lambda: bool(got.all) and bool(late.all))
    assert got.data == [b"after"]
    assert [(subject, data) for subject, _, data, _ in late.all] == [("b", b"after")]
    assert bus.reconnects == other.reconnects == 1


async def test_a_watcher_that_raises_does_not_hide_the_change_from_the_next(
    broker: "Broker", bus: Bus, until: Until
) -> None:
    seen: list[BusState] = []

    def fail(_: BusState) -> None:
        raise RuntimeError("broken")

    bus.on_state(fail)
    bus.on_state(seen.append)
    await broker.stop()
    await until(lambda: bus.state is BusState.DISCONNECTED)
    await broker.start()

    await until(lambda: bus.state is BusState.CONNECTED)
    assert seen == [BusState.DISCONNECTED, BusState.CONNECTED]


async def test_a_broker_that_does_not_read_lets_the_backlog_grow_to_its_limit_only(
    broker: "Broker", bus: Bus, other: Bus, until: Until
) -> None:
    got = Got()
    await other.subscribe("a", got)
    broker.stall()
    sent = 0

    while bus.publish("a", bytes(64 * 1024)):
        sent += 1
        await asyncio.sleep(0)

    assert BACKLOG_LIMIT < bus.backlog < BACKLOG_LIMIT + 1024 * 1024
    assert bus.state is BusState.CONNECTED
    broker.resume()
    await until(lambda: len(got.all) == sent)
    assert bus.publish("a", b"")


async def test_a_closed_bus_says_so(bus: Bus) -> None:
    await bus.close()
    await bus.close()

    assert bus.state is BusState.CLOSED
    assert not bus.publish("a", b"")
    with pytest.raises(BusUnreachable, match="has been closed"):
        await bus.ready(1.0)


async def test_close_sends_what_was_taken(broker: "Broker", bus: Bus, until: Until) -> None:
    got: Got = Got()
    await bus.subscribe("a", got)
    leaving = await broker.connect()

    for _ in range(100):
        leaving.publish("a", b"goodbye")
    await leaving.close()

    await until(lambda: len(got.all) == 100)


async def test_a_bus_can_be_closed_while_the_broker_stands_still(broker: "Broker", bus: Bus) -> None:
    broker.stall()
    while bus.publish("a", bytes(64 * 1024)):
        await asyncio.sleep(0)

    async with asyncio.timeout(3):
        await bus.close()

    broker.resume()
    assert bus.state is BusState.CLOSED


async def test_a_hundred_thousand_messages_go_through(bus: Bus, other: Bus, until: Until) -> None:
    count = 0

    def handler(subject: str, reply: str, data: bytes, status: int) -> None:
        nonlocal count
        count += 1

    take: Handler = handler
    await other.subscribe("a", take)
    started = asyncio.get_running_loop().time()
    for number in range(100_000):
        assert bus.publish("a", b"x" * 64)
        if number % 200 == 0:
            await asyncio.sleep(0)

    await until(lambda: count == 100_000)
    assert asyncio.get_running_loop().time() - started < 15
