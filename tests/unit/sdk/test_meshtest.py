"""What `MeshTest` promises to an app's own tests: the real path, stubs and faults, and a clock that stands still."""

import asyncio
import logging
import subprocess
import sys
import time
from datetime import timedelta
from typing import Any

import bus_mesh_sdk.testing
import pytest
from bus_mesh_sdk import (
    Code,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidName,
    MeshError,
    NoInstances,
    NotFound,
    PermissionDenied,
    Ran,
    ResourceExhausted,
    Service,
    Unavailable,
    Unimplemented,
    blocking,
    current,
    options,
    rpc,
)
from bus_mesh_sdk.testing import Called, MeshTest
from pydantic import BaseModel

from bus_mesh.policy.load import PolicyError
from bus_mesh.testing import ManualClock, MemoryMesh


class NewOrder(BaseModel):
    sku: str
    qty: int = 1


class Order(NewOrder):
    id: str
    receipt: str


class Receipt(BaseModel):
    id: str


class SoldOut(MeshError, code=Code.FAILED_PRECONDITION, reason="MESHTEST_SOLD_OUT"):
    """Nothing left."""


class Stock(Service, name="stock"):
    @rpc
    async def reserve(self, sku: str, qty: int = 1) -> Receipt:
        raise NotImplementedError

    @rpc
    async def release(self, id: str) -> None:
        raise NotImplementedError


class Orders(Service, name="orders", version="2.0.0"):
    @rpc(idempotent=True, timeout=1.0)
    async def get(self, id: str) -> str:
        raise NotImplementedError

    @rpc
    async def create(self, order: NewOrder) -> Order:
        raise NotImplementedError


class OrdersImpl(Orders):
    def __init__(self, stock: Stock | None = None) -> None:
        self.stock = stock
        self.tries = 0

    async def get(self, id: str) -> str:
        self.tries += 1
        return f"order {id} by {current().instance}"

    async def create(self, order: NewOrder) -> Order:
        assert self.stock is not None
        receipt = await self.stock.reserve(order.sku, order.qty)
        return Order(**order.model_dump(), id="o-1", receipt=receipt.id)


DENY_BATCH = """\
kind: Service
name: orders
access:
  allow: [{name: web-reads, from: [web], methods: [get]}]
  deny: [{name: no-batch, from: ["batch*"], methods: ["*"]}]
"""


async def test_the_example_in_the_docstring_runs() -> None:
    _, _, example = (bus_mesh_sdk.testing.__doc__ or "").partition("\n\n")
    code, _, _ = example.partition("\n\nEvery call")
    names: dict[str, Any] = dict(globals())

    exec(code, names)

    await names["test_an_order_reserves_its_stock"]()


@pytest.mark.alone
async def test_a_mesh_test_starts_and_ends_in_a_blink() -> None:
    async with MeshTest() as t:  # what is loaded and built once is so after this
        await t.serve(OrdersImpl())
    began = time.perf_counter()

    async with MeshTest() as t:
        await t.serve(OrdersImpl())
        ready = time.perf_counter()

    assert ready - began < 0.05
    assert time.perf_counter() - began < 0.1


async def test_time_stands_still() -> None:
    async with MeshTest() as t:
        before = asyncio.get_running_loop().time()
        sleeper = asyncio.create_task(asyncio.sleep(0.001))
        await asyncio.to_thread(time.sleep, 0.01)

        assert not sleeper.done()
        assert asyncio.get_running_loop().time() == before
        await t.advance(0.001)
        assert sleeper.done()


async def test_the_loop_has_its_own_time_again_afterwards() -> None:
    loop = asyncio.get_running_loop()
    time_of_loop = loop.time
    async with MeshTest() as t:
        await t.advance(1000.0)
        left = asyncio.create_task(asyncio.sleep(0.001))

    assert loop.time == time_of_loop
    assert abs(loop.time() - time.monotonic()) < 1.0
    await asyncio.wait_for(left, 5)  # who still slept goes on by the real time


async def test_time_does_not_go_back() -> None:
    async with MeshTest() as t:
        with pytest.raises(ValueError, match="does not go back"):
            await t.advance(-1.0)


async def test_timers_fire_in_order_and_a_cancelled_one_never() -> None:
    loop, fired = asyncio.get_running_loop(), list[str]()
    async with MeshTest() as t:
        loop.call_later(2.0, fired.append, "second")
        loop.call_at(loop.time() + 1.0, fired.append, "first")
        loop.call_later(1.5, fired.append, "never").cancel()
        loop.call_later(5.0, fired.append, "too late")

        await t.advance(3.0)

    assert fired == ["first", "second"]


async def test_a_timer_cancelled_by_one_of_the_same_moment_does_not_fire() -> None:
    loop, fired = asyncio.get_running_loop(), list[str]()
    async with MeshTest() as t:
        when = loop.time() + 1.0
        loop.call_at(when, lambda: second.cancel())
        second = loop.call_at(when, fired.append, "second")
        await t.advance(1.0)

    assert fired == []


async def test_one_loop_has_one_clock() -> None:
    async with MeshTest():
        with pytest.raises(RuntimeError, match="another ManualClock"):
            await MeshTest().__aenter__()


async def test_what_needs_no_time_ends_while_time_stands_still() -> None:
    async with MeshTest() as t:
        await t.serve(OrdersImpl())
        loop = asyncio.get_running_loop()
        before = loop.time()

        answers = await asyncio.gather(*(t.call(Orders.get, str(n)) for n in range(200)))

        assert [answer.partition(" by ")[0] for answer in answers] == [f"order {n}" for n in range(200)]
        assert loop.time() == before


async def test_a_deadline_passes_only_when_time_does() -> None:
    async with MeshTest() as t:
        await t.serve(OrdersImpl())
        t.fault(Orders.get, delay=60.0)
        call = asyncio.create_task(t.client(Orders, timeout=2.0).get("1"))

        await t.advance(1.9)
        assert not call.done()
        await t.advance(0.1)

        assert isinstance(call.exception(), DeadlineExceeded)


async def test_a_handler_that_is_late_is_cancelled() -> None:
    ended = list[str]()

    class Slow(Orders):
        async def get(self, id: str) -> str:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.append(id)
                raise
            return id

        async def create(self, order: NewOrder) -> Order:
            raise AssertionError

    async with MeshTest() as t:
        await t.serve(Slow())
        call = asyncio.create_task(t.call(Orders.get, "7"))
        await t.advance(1.0)

        assert isinstance(call.exception(), DeadlineExceeded)
        assert ended == ["7"]


async def test_a_handlers_own_waiting_goes_by_the_manual_clock() -> None:
    async with MeshTest() as t:
        t.stub(Stock.reserve).returns(Receipt(id="r"))
        t.fault(Stock.reserve, delay=3.0)
        await t.serve(OrdersImpl(t.client(Stock, app="orders")))
        call = asyncio.create_task(t.call(Orders.create, NewOrder(sku="tea")))

        await t.advance(2.9)
        assert not call.done()
        await t.advance(0.1)

        assert call.result().receipt == "r"


async def test_a_stub_answers_what_the_test_says_and_the_last_word_holds() -> None:
    async with MeshTest() as t:
        stub = t.stub(Stock.reserve)
        stub.returns(Receipt(id="a"))
        assert (await t.call(Stock.reserve, "tea")).id == "a"

        stub.returns(Receipt(id="b"))
        assert (await t.call(Stock.reserve, "tea")).id == "b"

        stub.raises(SoldOut("no tea", details={"sku": "tea"}))
        with pytest.raises(SoldOut, match="no tea") as caught:
            await t.call(Stock.reserve, "tea")
        assert caught.value.details == {"sku": "tea"}
        assert caught.value.ran is Ran.YES


async def test_a_stub_that_was_told_nothing_says_so() -> None:
    async with MeshTest() as t:
        t.stub(Stock.reserve)

        with pytest.raises(Unimplemented, match=r"stock.reserve has neither .returns\(\) nor .raises\(\)"):
            await t.call(Stock.reserve, "tea")


async def test_the_other_methods_of_a_stubbed_service_ask_for_a_stub() -> None:
    async with MeshTest() as t:
        t.stub(Stock.reserve).returns(Receipt(id="a"))

        with pytest.raises(Unimplemented, match=r"stock\.release has no stub"):
            await t.call(Stock.release, "a")


async def test_a_stub_takes_one_method_out_of_a_served_implementation() -> None:
    async with MeshTest() as t:
        t.stub(Orders.create).raises(SoldOut("none"))
        await t.serve(OrdersImpl())

        assert (await t.call(Orders.get, "1")).startswith("order 1")
        with pytest.raises(SoldOut):
            await t.call(Orders.create, NewOrder(sku="tea"))


async def test_any_other_error_of_a_handler_arrives_as_internal(caplog: pytest.LogCaptureFixture) -> None:
    async with MeshTest() as t:
        t.stub(Stock.release).raises(ZeroDivisionError("secret"))

        with caplog.at_level(logging.CRITICAL), pytest.raises(Internal) as caught:
            await t.call(Stock.release, "a")

        assert "secret" not in str(caught.value)


async def test_calls_are_noted_with_parameters_caller_and_metadata() -> None:
    async with MeshTest() as t:
        t.stub(Stock.reserve).returns(Receipt(id="r"))
        web = t.client(Stock, app="web")
        with options(metadata={"tenant": "a"}):
            await web.reserve("tea", 2)
        await t.call("stock", "reserve", {"sku": "milk"})

        assert t.calls(Stock.reserve) == [
            Called({"sku": "tea", "qty": 2}, "web", {"tenant": "a"}),
            Called({"sku": "milk"}, "test", {}),
        ]
        assert t.calls(Stock.release) == []


async def test_a_plain_service_of_nats_answers_what_its_stub_says_and_its_calls_are_noted() -> None:
    async with MeshTest() as t:
        t.stub("micro:rates", "convert").returns({"eur": 2.5})
        t.stub("micro:rates", "list").raises(NotFound("none today"))

        assert await t.call("micro:rates", "convert", {"usd": 3}) == {"eur": 2.5}
        with pytest.raises(NotFound, match="none today") as caught:
            await t.call("micro:rates", "list")

        assert caught.value.details == {"code": "404"}
        assert t.calls("micro:rates", "convert") == [Called({"usd": 3}, "", {})]
        t.stub("micro:rates", "convert").raises(ZeroDivisionError("division by zero"))
        with pytest.raises(Internal, match="ZeroDivisionError: division by zero"):
            await t.call("micro:rates", "convert")


async def test_a_handler_reaches_a_plain_service_as_its_policy_says() -> None:
    class Prices(Service, name="prices"):
        @rpc
        async def euros(self, usd: float) -> float:
            raise NotImplementedError

    class PricesImpl(Prices):
        async def euros(self, usd: float) -> float:
            converted: dict[str, float] = await (await t.mesh("prices")).call("micro:rates", "convert", {"usd": usd})
            return converted["eur"]

    async with MeshTest() as t:
        t.stub("micro:rates", "convert").returns({"eur": 2.5})
        await t.serve(PricesImpl())
        assert await t.call(Prices.euros, 3.0) == 2.5
        t.policy("kind: Service\nname: prices\naccess: {allow: [{from: [test], methods: [euros]}]}\n")

        with pytest.raises(PermissionDenied):
            await t.call(Prices.euros, 3.0)
        assert len(t.calls("micro:rates", "convert")) == 1


async def test_a_stub_of_a_plain_service_that_comes_too_late_or_has_no_such_name_says_so() -> None:
    async with MeshTest() as t:
        t.stub("micro:rates", "convert").returns(1)
        await t.call("micro:rates", "convert")

        t.stub("micro:rates", "convert").returns(2)
        with pytest.raises(RuntimeError, match="stub every endpoint of micro:rates before the first call"):
            t.stub("micro:rates", "list")
        with pytest.raises(TypeError, match="stub a method of the mesh by its reference"):
            t.stub("rates", "convert")
        with pytest.raises(InvalidName):
            t.stub("micro:rates", "a.b")
        assert await t.call("micro:rates", "convert") == 2


async def test_a_plain_service_without_a_stub_is_out_of_reach() -> None:
    async with MeshTest() as t:
        with pytest.raises(FailedPrecondition, match="this node has no way to micro:rates"):
            await t.call("micro:rates", "convert")


async def test_a_fault_heals() -> None:
    async with MeshTest() as t:
        await t.serve(OrdersImpl())
        t.fault(Orders.get, error=ResourceExhausted("full"))
        with pytest.raises(ResourceExhausted):
            await t.call(Orders.get, "1")

        t.fault(Orders.get)

        assert (await t.call(Orders.get, "1")).startswith("order 1")


async def test_an_idempotent_call_is_tried_again_elsewhere() -> None:
    async with MeshTest() as t:
        t.fault(Orders.get, error=Unavailable("not now"))
        await t.serve(OrdersImpl())
        await t.serve(OrdersImpl())

        with pytest.raises(Unavailable):
            await t.call(Orders.get, "1")

        assert len(t.calls(Orders.get)) == 3


async def test_two_instances_share_the_calls() -> None:
    async with MeshTest() as t:
        one, two = OrdersImpl(), OrdersImpl()
        await t.serve(one)
        await t.serve(two)

        for n in range(40):
            await t.call(Orders.get, str(n))

        assert one.tries + two.tries == 40
        assert min(one.tries, two.tries) > 5


async def test_a_service_that_is_taken_back_is_gone() -> None:
    async with MeshTest() as t:
        serving = await t.serve(OrdersImpl())
        await t.call(Orders.get, "1")
        closing = asyncio.create_task(serving.close())
        await t.advance(1.0)
        assert closing.done()

        with pytest.raises(NoInstances):
            await t.call(Orders.get, "1")


async def test_nobody_there_is_known_without_time_passing() -> None:
    async with MeshTest() as t:
        with pytest.raises(NoInstances, match="nobody serves orders"):
            await t.call(Orders.get, "1")


async def test_without_a_policy_everything_is_allowed() -> None:
    async with MeshTest() as t:
        await t.serve(OrdersImpl(), app="the-shop")

        assert await t.client(Orders, app="anybody").get("1")


async def test_a_policy_is_enforced_as_in_production() -> None:
    async with MeshTest() as t:
        await t.serve(OrdersImpl())
        t.policy(DENY_BATCH)

        assert await t.client(Orders, app="web").get("1")
        with pytest.raises(PermissionDenied, match="batch-2 may not call orders/get: no-batch"):
            await t.client(Orders, app="batch-2").get("1")
        with pytest.raises(PermissionDenied, match="web may not call orders/create: default deny") as caught:
            await t.client(Orders, app="web").create(NewOrder(sku="tea"))
        assert caught.value.ran is Ran.NO
        assert len(t.calls(Orders.get)) == 1
        assert t.calls(Orders.create) == []


async def test_a_policy_also_holds_for_what_joins_later() -> None:
    async with MeshTest() as t:
        t.policy(DENY_BATCH)
        await t.serve(OrdersImpl())

        with pytest.raises(PermissionDenied):
            await t.call(Orders.get, "1")


async def test_a_wrong_policy_is_refused_and_changes_nothing() -> None:
    async with MeshTest() as t:
        await t.serve(OrdersImpl())

        with pytest.raises(PolicyError, match="accss"):
            t.policy("kind: Service\nname: orders\naccss: {}\n")

        assert await t.call(Orders.get, "1")


async def test_code_that_takes_a_mesh_gets_one() -> None:
    async with MeshTest() as t:
        await t.serve(OrdersImpl())

        mesh = await t.mesh("web")

        assert await mesh.call(Orders.get, "1")
        assert mesh.app == "web"
        assert await t.mesh("web") is mesh


async def test_an_implementation_with_a_hole_is_refused() -> None:
    class Half(Orders):
        async def get(self, id: str) -> str:
            return id

    async with MeshTest() as t:
        with pytest.raises(TypeError, match="Half does not implement create"):
            await t.serve(Half())


async def test_blocking_handlers_run_in_their_threads() -> None:
    class Blocks(Orders):
        @blocking
        def get(self, id: str) -> str:
            time.sleep(0.01)
            return f"{id} for {current().caller}"

        async def create(self, order: NewOrder) -> Order:
            raise AssertionError

    async with MeshTest() as t:
        await t.serve(Blocks())

        assert await t.call(Orders.get, "1") == "1 for test"


async def test_a_handler_that_never_ends_does_not_hold_up_the_end() -> None:
    async with MeshTest() as t:
        await t.serve(OrdersImpl())
        t.fault(Orders.get, delay=1e9)
        with options(timeout=600):
            call = asyncio.create_task(t.call(Orders.get, "1"))
        await t.advance(1.0)

    assert isinstance(call.exception(), MeshError)


async def test_a_mesh_test_is_used_once_and_only_while_open() -> None:
    t = MeshTest()
    with pytest.raises(RuntimeError, match="not open"):
        await t.advance(1.0)
    async with t:
        pass

    with pytest.raises(RuntimeError, match="use another"):
        await t.__aenter__()
    with pytest.raises(RuntimeError, match="not open"):
        t.stub(Orders.get)


async def test_a_loop_that_never_rests_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus_mesh.testing._TURNS", 100)

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    async with MeshTest() as t:
        spinner = asyncio.create_task(spin())
        with pytest.raises(RuntimeError, match="after 100 turns"):
            await t.advance(1.0)
        spinner.cancel()


async def test_a_minute_of_a_mesh_leaves_it_as_it_was() -> None:
    async with MeshTest() as t:
        await t.serve(OrdersImpl())
        await t.call(Orders.get, "1")

        await t.advance(timedelta(minutes=1).total_seconds())

        assert await t.call(Orders.get, "2")


async def test_every_run_of_a_memory_mesh_makes_the_same_keys() -> None:
    def roots() -> bytes:
        with ManualClock() as clock:
            return MemoryMesh(clock)._root.public

    assert roots() == roots()


def test_an_app_does_not_load_what_only_tests_need() -> None:
    code = "import sys, bus_mesh_sdk; print(*sorted(sys.modules))"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert "bus_mesh_sdk.testing" not in loaded
    assert "bus_mesh.testing" not in loaded
    assert not any(name.startswith("bus_mesh.agent") for name in loaded)


def test_all_names_what_is_public() -> None:
    assert bus_mesh_sdk.testing.__all__ == ["Called", "MeshTest", "Stub"]
    public = {
        name
        for name, value in vars(bus_mesh_sdk.testing).items()
        if getattr(value, "__module__", "") == bus_mesh_sdk.testing.__name__ and not name.startswith("_")
    }
    assert public | {"Called", "Stub"} == set(bus_mesh_sdk.testing.__all__)
