"""Calls of apps to plain services of NATS, hostile or not, on a bus in memory."""

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Any

import pytest
from bus_mesh_sdk.testing import MeshTest
from test_whole_mesh import Book, network

from bus_mesh.balance.outside import FIND_PATIENCE, HELD
from bus_mesh.bus.memory import MemoryBroker, MemoryBus, Message
from bus_mesh.protocol.errors import (
    BusStalled,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    InvalidName,
    MeshError,
    NoInstances,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    Ran,
    Unavailable,
    Unimplemented,
)

ALLOWED = """\
kind: Service
name: micro:MinMax
access: {allow: [{from: [test], methods: [min, Max, gone]}]}
"""


class Plain:
    """A plain service of NATS: endpoints that answer in JSON, as `answers` says."""

    def __init__(self, t: MeshTest, broker: MemoryBroker | None = None) -> None:
        self.bus: MemoryBus = (broker or network(t).broker).connect()
        self.endpoints: dict[str, str] = {"min": "minmax.min", "Max": "minmax.max"}
        self.error: Mapping[str, str] = {}
        self.answer: bytes | None = None
        self.silent = False
        self.got: list[Message] = []
        self.asked = 0
        network(t).broker.tap(
            lambda message: self.got.append(message) if message.subject.startswith("minmax") else None
        )

    async def start(self) -> "Plain":
        await self.bus.subscribe("$SRV.INFO.MinMax", self._on_info)
        await self.bus.subscribe("minmax.*", self._on_call, "q")
        return self

    def _on_info(self, subject: str, reply: str, data: bytes, status: int) -> None:
        self.asked += 1
        listed = [{"name": name, "subject": subject} for name, subject in self.endpoints.items()]
        said = {"type": "io.nats.micro.v1.info_response", "name": "MinMax", "endpoints": listed}
        self.bus.publish(reply, json.dumps(said).encode())

    def _on_call(self, subject: str, reply: str, data: bytes, status: int) -> None:
        if not self.silent:
            value = {"subject": subject, "got": json.loads(data)}
            self.bus.publish_headed(
                reply, self.error, json.dumps(value).encode() if self.answer is None else self.answer
            )


async def reach(t: MeshTest) -> MemoryBus:
    """Give the machine of the app `test` a way out, as `micro` in node.yaml does."""
    await t.mesh()
    (node,) = [node for node in network(t).nodes.values() if "test" in node.own.certificate.call_as]
    bus, numbers = network(t).broker.connect(), iter(range(1, 1000))
    await node.reach(bus, "_INBOX.out", lambda size: next(numbers).to_bytes(size, "big"), lambda: 0)
    return bus


async def ask(t: MeshTest, method: str = "min", params: Mapping[str, Any] | None = None, **options: Any) -> Any:
    return await t.call("micro:MinMax", method, params, **options)


async def lose(t: MeshTest) -> None:
    """Call a plain service that is gone afterwards."""
    t.policy(ALLOWED)
    await reach(t)
    plain = await Plain(t).start()
    await ask(t)
    await plain.bus.close()


async def test_a_call_goes_to_the_endpoint_that_the_service_names_and_back_as_json() -> None:
    async with MeshTest() as t:
        t.policy(ALLOWED)
        await reach(t)
        plain = await Plain(t).start()

        assert await ask(t, "min", {"of": [3, 1], "raw": b"\xff"}) == {
            "subject": "minmax.min",
            "got": {"of": [3, 1], "raw": "/w=="},
        }
        assert (await ask(t, "Max"))["subject"] == "minmax.max"
        assert plain.asked == 1
        assert {message.reply.rpartition(".")[0] for message in plain.got} == {"_INBOX.out"}


async def test_a_hundred_first_calls_ask_once() -> None:
    async with MeshTest() as t:
        t.policy(ALLOWED)
        await reach(t)
        plain = await Plain(t).start()

        found = await asyncio.gather(*(ask(t, "min", {"n": number}) for number in range(100)))

        assert [one["got"]["n"] for one in found] == list(range(100))
        assert plain.asked == 1


async def test_a_node_whose_certificate_has_ended_calls_nobody_until_it_has_the_next_one() -> None:
    async with MeshTest() as t:
        t.policy(ALLOWED)
        await reach(t)
        plain = await Plain(t).start()
        await ask(t)
        (node,) = [node for node in network(t).nodes.values() if "test" in node.own.certificate.call_as]
        good, now_us = node.own, node._clock().wall_us
        node.own = good._replace(certificate=good.certificate._replace(not_after_us=now_us + 500_000))
        await ask(t)
        await t.advance(1.5)

        for call in (ask(t), t.call("orders", "get")):
            with pytest.raises(FailedPrecondition, match=f"the certificate of {good.node} has ended") as refused:
                await call
            assert (refused.value.reason, refused.value.ran) == ("CERTIFICATE_ENDED", Ran.NO)
        node.own = good
        await ask(t)
        assert len(plain.got) == 3


async def test_what_policy_does_not_allow_goes_nowhere() -> None:
    async with MeshTest() as t:
        await reach(t)
        plain = await Plain(t).start()
        for text in ("kind: Mesh\n", ALLOWED.replace("[test]", "[web]"), ALLOWED.replace("MinMax", "Other")):
            t.policy(text)
            with pytest.raises(PermissionDenied) as denied:
                await ask(t)
            assert denied.value.ran is Ran.NO
        assert (plain.asked, plain.got) == (0, [])


async def test_a_node_without_a_way_out_says_what_it_lacks() -> None:
    async with MeshTest() as t:
        t.policy(ALLOWED)
        with pytest.raises(FailedPrecondition, match=r"`micro` in node\.yaml") as lacking:
            await ask(t)
        assert lacking.value.ran is Ran.NO


@pytest.mark.parametrize(
    ("service", "method"), [("micro:", "a"), ("micro:a.b", "a"), ("micro:A", "a.b"), ("micro:A", ">"), ("MinMax", "a")]
)
async def test_names_that_are_none_are_refused_at_once(service: str, method: str) -> None:
    async with MeshTest() as t:
        with pytest.raises(InvalidName):
            await t.call(service, method)


async def test_nobody_and_no_such_endpoint_are_told_apart() -> None:
    async with MeshTest() as t:
        t.policy(ALLOWED)
        await reach(t)
        with pytest.raises(NoInstances, match="is it running") as nobody:
            await t._time.through(ask(t))
        assert nobody.value.ran is Ran.NO

        await Plain(t).start()
        await t.advance(FIND_PATIENCE)
        with pytest.raises(Unimplemented, match="it has Max, min") as lacking:
            await t._time.through(ask(t, "gone"))
        assert lacking.value.ran is Ran.NO


async def test_a_service_that_leads_into_the_mesh_is_not_followed() -> None:
    async with MeshTest() as t:
        t.policy(ALLOWED)
        await reach(t)
        plain = Plain(t)
        plain.endpoints = {"min": "mesh.test.rpc.ledger.read"}
        await plain.start()
        seen: list[str] = []
        network(t).broker.tap(lambda message: seen.append(message.subject))

        with pytest.raises(NoInstances):
            await t._time.through(ask(t))
        assert "mesh.test.rpc.ledger.read" not in seen


@pytest.mark.parametrize(
    ("number", "kind"),
    [("400", InvalidArgument), ("404", NotFound), ("503", Unavailable), ("500", Internal), ("599", Internal)],
)
async def test_an_error_arrives_as_its_own_class(number: str, kind: type[MeshError]) -> None:
    async with MeshTest() as t:
        t.policy(ALLOWED)
        await reach(t)
        plain = await Plain(t).start()
        plain.error = {"Nats-Service-Error": "no such thing", "Nats-Service-Error-Code": number}

        with pytest.raises(kind, match="no such thing") as failed:
            await ask(t)
        assert failed.value.ran is Ran.YES
        assert failed.value.details == {"code": number}


@pytest.mark.parametrize("number", ["", "x", "4" * 100])
async def test_an_error_with_a_number_of_its_own_is_unknown(number: str) -> None:
    async with MeshTest() as t:
        t.policy(ALLOWED)
        await reach(t)
        plain = await Plain(t).start()
        plain.error = {"Nats-Service-Error": "e" * 10_000, "Nats-Service-Error-Code": number}

        with pytest.raises(MeshError) as failed:
            await ask(t)
        assert (failed.value.wire_code or failed.value.code).name == "UNKNOWN"
        assert len(failed.value.message) <= 1024


@pytest.mark.parametrize("answer", [b"{", b"\xff", b"[" * 100_000, b"9" * 30, b'"\\ud800"'], ids=range(5))
async def test_an_answer_that_is_no_json_is_an_internal_error(answer: bytes) -> None:
    async with MeshTest() as t:
        t.policy(ALLOWED)
        await reach(t)
        plain = await Plain(t).start()
        plain.answer = answer

        with pytest.raises(Internal, match="no JSON") as failed:
            await ask(t)
        assert failed.value.ran is Ran.YES


async def test_an_answer_that_no_app_could_take_in_is_an_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus_mesh.agent.outward.LARGEST", 100)
    async with MeshTest() as t:
        t.policy(ALLOWED)
        await reach(t)
        plain = await Plain(t).start()
        plain.answer = b"[" + b",".join([b"1e5"] * 12) + b"]"

        with pytest.raises(Internal, match="109 bytes, over 100"):
            await ask(t)
        plain.answer = b"[1e5]"
        assert await ask(t) == [1e5]


async def test_an_empty_answer_is_none() -> None:
    async with MeshTest() as t:
        t.policy(ALLOWED)
        await reach(t)
        plain = await Plain(t).start()
        plain.answer = b" "

        assert await ask(t) is None


async def test_parameters_that_json_has_no_words_for_are_refused() -> None:
    async with MeshTest() as t:
        t.policy(ALLOWED)
        bus = await reach(t)
        plain = await Plain(t).start()

        with pytest.raises(InvalidArgument, match="JSON"):
            await ask(t, "min", {"x": float("nan")})
        with pytest.raises(PayloadTooLarge):
            await ask(t, "min", {"x": "a" * (bus.max_payload - 1000)})
        assert plain.got == []


async def test_silence_ends_at_the_deadline_and_what_comes_later_is_dropped() -> None:
    async with MeshTest() as t:
        t.policy(ALLOWED)
        bus = await reach(t)
        plain = await Plain(t).start()
        await ask(t)
        plain.silent = True

        with pytest.raises(DeadlineExceeded) as late:
            await t._time.through(ask(t, timeout=0.5))
        assert late.value.ran is Ran.MAYBE
        plain.bus.publish(plain.got[-1].reply, b"1")
        plain.silent = False
        assert (await ask(t, "min", {"n": 2}))["got"] == {"n": 2}
        assert bus.handler_errors == 0


async def test_while_the_way_out_is_lost_calls_are_refused_at_once_and_then_go_on() -> None:
    async with MeshTest() as t:
        t.policy(ALLOWED)
        await t.mesh()
        (node,) = network(t).nodes.values()
        elsewhere = MemoryBroker()
        await node.reach(elsewhere.connect(), "_INBOX.out", os.urandom, lambda: 0)
        plain = Plain(t, elsewhere)
        elsewhere.stop()
        with pytest.raises(BusStalled, match="busmesh check") as lost:
            await ask(t)
        assert lost.value.ran is Ran.NO

        elsewhere.start()
        await plain.start()
        assert (await ask(t))["subject"] == "minmax.min"
        elsewhere.stop()
        with pytest.raises(BusStalled):
            await ask(t)
        assert node.status()["outside"] == "disconnected"
        elsewhere.start()
        assert (await ask(t))["subject"] == "minmax.min"


async def test_answers_of_strangers_are_dropped() -> None:
    async with MeshTest() as t:
        t.policy(ALLOWED)
        bus = await reach(t)
        plain = await Plain(t).start()
        for token in ("", "x", "_INBOX", "1", "0" * 32):
            plain.bus.publish_headed(f"_INBOX.out.{token or 'y'}", {"Nats-Service-Error-Code": "500"}, b"{}")
        await t.advance(0.1)

        assert (await ask(t))["subject"] == "minmax.min"
        assert bus.handler_errors == 0


async def test_an_idempotent_call_is_tried_again_and_one_that_is_not_stands() -> None:
    async with MeshTest() as t:
        t.policy(ALLOWED + "methods: {Max: {idempotent: true, retry: {tries: 3}}}\n")
        await reach(t)
        plain = await Plain(t).start()
        await ask(t)
        plain.got.clear()
        plain.error = {"Nats-Service-Error": "later", "Nats-Service-Error-Code": "503"}

        with pytest.raises(Unavailable):
            await t._time.through(ask(t, "Max"))
        assert len(plain.got) == 3
        with pytest.raises(Unavailable):
            await t._time.through(ask(t, "min"))
        assert len(plain.got) == 4


async def test_an_endpoint_that_moved_is_found_again() -> None:
    async with MeshTest() as t:
        t.policy(ALLOWED)
        await reach(t)
        plain = await Plain(t).start()
        await ask(t)
        plain.endpoints = {"min": "minmax.second"}
        assert (await ask(t))["subject"] == "minmax.min", "known for a while"
        await t.advance(HELD)
        await ask(t)
        await t.advance(0.1)

        assert (await ask(t))["subject"] == "minmax.second"


async def test_a_service_that_is_gone_is_said_to_be_and_searched_for_anew() -> None:
    async with MeshTest() as t:
        await lose(t)

        with pytest.raises(NoInstances, match="any more"):
            await ask(t)
        with pytest.raises(NoInstances, match="is it running"):
            await t._time.through(ask(t))
        await Plain(t).start()
        await t.advance(FIND_PATIENCE)
        assert (await ask(t))["subject"] == "minmax.min"


async def test_a_fault_before_the_search_does_not_pass_for_the_wait_of_it() -> None:
    fault = "{delay: 200ms, percent: 100, until: 2999-01-01T00:00:00Z}"
    async with MeshTest() as t:
        t.policy(f"{ALLOWED}traffic: {{fault: {fault}}}\n")
        await reach(t)
        plain = await Plain(t).start()

        assert (await t._time.through(ask(t)))["subject"] == "minmax.min"
        assert plain.asked == 1


async def test_a_service_that_is_lost_while_another_endpoint_is_waited_for_fails_both_calls() -> None:
    async with MeshTest() as t:
        t.policy(ALLOWED)
        await reach(t)
        plain = await Plain(t).start()
        plain.endpoints = {"min": "minmax.nobody.listens"}
        await asyncio.gather(ask(t), return_exceptions=True)
        plain.endpoints = {"min": "elsewhere.min"}
        await t.advance(FIND_PATIENCE)
        one, other = asyncio.ensure_future(ask(t, "gone")), asyncio.ensure_future(ask(t))
        await t.advance(1.0)

        for call in (one, other):
            assert isinstance(call.exception(), NoInstances | Unimplemented)
        (node,) = [node for node in network(t).nodes.values() if "test" in node.own.certificate.call_as]
        assert repr(node._compiler.parts.waiting) == "Waiting({})"


async def test_a_call_that_is_given_up_while_it_waits_is_forgotten() -> None:
    async with MeshTest() as t:
        t.policy(ALLOWED)
        await reach(t)
        waiting = asyncio.ensure_future(ask(t))
        await t.advance(0.1)
        waiting.cancel()
        await t.advance(0.1)
        (node,) = [node for node in network(t).nodes.values() if "test" in node.own.certificate.call_as]

        assert repr(node._compiler.parts.waiting) == "Waiting({})"
        assert node.outbound.outward is not None
        assert node.outbound.outward._calls == {}


async def test_keys_and_the_mesh_itself_stay_as_they_are() -> None:
    from bus_mesh_sdk import options

    async with MeshTest() as t:
        await t.serve(Book())
        t.policy(f"{ALLOWED}---\nkind: Service\nname: ledger\naccess: {{allow: [{{from: [test], methods: ['*']}}]}}\n")
        await reach(t)
        await Plain(t).start()

        with pytest.raises(InvalidArgument, match="keys"), options(idempotency_key="k"):
            await ask(t)
        with pytest.raises(InvalidArgument, match="ids of instances"), options(instance="other-1"):
            await ask(t)
        assert await t.call("ledger", "read", {"line": "a"}) == "a"


async def test_words_of_a_service_that_went_do_not_undo_what_is_learned_of_the_next() -> None:
    async with MeshTest() as t:
        await lose(t)
        other = Plain(t)
        other.endpoints = {"min": "minmax.second"}
        await other.bus.subscribe("$SRV.INFO.MinMax", other._on_info)
        await other.bus.subscribe("minmax.second", other._on_call, "q")

        answers = await asyncio.gather(*(ask(t, idempotent=True) for _ in range(50)))

        assert {answer["subject"] for answer in answers} == {"minmax.second"}
        assert other.asked == 1, "fifty words of the broker are one reason to ask"


async def test_others_may_add_to_an_answer_however_long_that_took() -> None:
    async with MeshTest() as t:
        t.policy(ALLOWED)
        await reach(t)
        plain = Plain(t)
        asked: list[str] = []
        await plain.bus.subscribe("$SRV.INFO.MinMax", lambda subject, reply, data, status: asked.append(reply))
        await plain.bus.subscribe("minmax.*", plain._on_call, "q")
        call = asyncio.create_task(ask(t))
        await t.advance(1.0)
        plain.endpoints = {"Max": "minmax.max"}
        plain._on_info("", asked[0], b"", 0)
        await t.advance(0.1)
        assert not call.done(), "another instance may have it"
        plain.endpoints = {"min": "minmax.min"}
        plain._on_info("", asked[0], b"", 0)

        assert (await call)["subject"] == "minmax.min"


@pytest.mark.parametrize("trace", ["x" * 20_000, "00-0-0-00", "nonsense"])
async def test_a_traceparent_that_is_none_goes_nowhere(trace: str) -> None:
    from bus_mesh_sdk import options

    async with MeshTest() as t:
        t.policy(ALLOWED)
        await reach(t)
        plain = await Plain(t).start()
        with options(traceparent=trace):
            await ask(t)

        assert "traceparent" not in plain.got[0].headers.decode()
