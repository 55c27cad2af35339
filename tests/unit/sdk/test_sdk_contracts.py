from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bus_mesh_sdk import InvalidArgument, InvalidName, Service, blocking, rpc
from bus_mesh_sdk._client import client_of
from bus_mesh_sdk._codec import pack
from bus_mesh_sdk._service import contract_of, method_of


class Orders(Service, name="orders", version="1.2.0"):
    @rpc(idempotent=True, timeout=0.5)
    async def get(self, id: str) -> str:
        """Return an order."""
        raise NotImplementedError

    @rpc
    async def create(self, sku: str, *, dry_run: bool = False) -> str:
        raise NotImplementedError

    def describe(self) -> str:
        return "orders"


class OrdersImpl(Orders):
    async def get(self, id: str) -> str:
        return id

    async def create(self, sku: str, *, dry_run: bool = False) -> str:
        return sku

    async def _private(self) -> None: ...

    async def helper(self) -> None: ...


class Recorder:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def invoke(self, method: Any, args: Any, kwargs: Any, timeout: Any) -> Any:
        self.calls.append((method.service, method.name, args, kwargs, timeout))
        return "done"


def test_rpc_leaves_the_function_as_it_is() -> None:
    async def get(self: Any, id: str) -> str:
        return id

    assert rpc(get) is get


def test_a_contract_knows_its_methods_and_their_marks() -> None:
    get, create = contract_of(Orders).methods.values()

    assert (get.name, get.idempotent, get.timeout) == ("get", True, 0.5)
    assert (create.name, create.idempotent, create.timeout) == ("create", False, None)


def test_an_implementation_inherits_the_contract() -> None:
    assert contract_of(OrdersImpl) is contract_of(Orders)


def test_only_marked_methods_are_served() -> None:
    assert set(contract_of(OrdersImpl).handlers(OrdersImpl())) == {"get", "create"}


def test_a_missing_method_is_named() -> None:
    class Half(Orders):
        async def get(self, id: str) -> str:
            return id

    with pytest.raises(TypeError, match="Half does not implement create of orders"):
        contract_of(Half).handlers(Half())


def test_an_abstract_method_counts_as_missing() -> None:
    class Base(Service, name="base"):
        @rpc
        @abstractmethod
        async def run(self) -> None: ...

    with pytest.raises(TypeError, match="does not implement run"):
        contract_of(Base).handlers(Base())  # type: ignore[abstract]  # the mistake


def test_a_contract_may_be_its_own_implementation() -> None:
    class Echo(Service, name="echo"):
        @rpc
        async def say(self, text: str) -> str:
            return text

    assert set(contract_of(Echo).handlers(Echo())) == {"say"}


def test_an_implementation_may_add_methods() -> None:
    class More(OrdersImpl):
        @rpc
        async def count(self) -> int:
            return 1

    assert set(contract_of(More).methods) == {"get", "create", "count"}
    assert contract_of(More).service == "orders"


def test_a_handler_that_cannot_take_the_contracts_parameters_is_refused() -> None:
    class Renamed(OrdersImpl):
        async def get(self, number: str) -> str:
            return number

    with pytest.raises(TypeError, match=r"Renamed\.get cannot be called as orders\.get\(id\)"):
        contract_of(Renamed).handlers(Renamed())


def test_a_plain_def_over_an_async_def_is_refused_with_the_way_out() -> None:
    class Plain(OrdersImpl):
        def get(self, id: str) -> str:  # type: ignore[override]  # the mistake
            return id

    with pytest.raises(TypeError, match="put @blocking over it"):
        contract_of(Plain).handlers(Plain())


def test_a_blocking_handler_is_served() -> None:
    class Slow(OrdersImpl):
        @blocking
        def get(self, id: str) -> str:
            return id

    assert set(contract_of(Slow).handlers(Slow())) == {"get", "create"}


def test_a_stream_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match="this version has no streams"):

        class Watch(Service, name="watch"):
            @rpc  # type: ignore[type-var]  # the mistake
            def watch(self) -> AsyncIterator[str]:
                raise NotImplementedError


def test_a_stream_of_parameters_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match="'orders' is a stream"):

        class Load(Service, name="load"):
            @rpc
            async def load(self, orders: AsyncIterator[str]) -> int:
                raise NotImplementedError


def test_a_stream_in_a_postponed_annotation_is_refused_too() -> None:
    with pytest.raises(TypeError, match="'return' is a stream"):

        class Later(Service, name="later"):
            @rpc
            async def load(self) -> "AsyncIterator[str]":
                raise NotImplementedError


def test_parameters_without_names_of_their_own_are_refused() -> None:
    with pytest.raises(TypeError, match=r"\*\*rest: str cannot travel by name"):

        class Rest(Service, name="rest"):
            @rpc
            async def take(self, **rest: str) -> None:
                raise NotImplementedError


def test_a_private_name_cannot_be_offered() -> None:
    with pytest.raises(InvalidName, match="'_hidden' is not a method name"):

        class Hidden(Service, name="hidden"):
            @rpc
            async def _hidden(self) -> None:
                raise NotImplementedError


def test_a_method_may_have_another_name_on_the_wire() -> None:
    class Named(Service, name="named"):
        @rpc(name="list")
        async def list_all(self) -> str:
            raise NotImplementedError

    assert list(contract_of(Named).methods) == ["list"]


def test_two_methods_cannot_share_a_name_on_the_wire() -> None:
    with pytest.raises(TypeError, match="two methods named 'get'"):

        class Twice(Service, name="twice"):
            @rpc
            async def get(self) -> str:
                raise NotImplementedError

            @rpc(name="get")
            async def fetch(self) -> str:
                raise NotImplementedError


def test_a_service_name_is_checked() -> None:
    with pytest.raises(InvalidName, match=r"'Orders\.v1' is not a service name"):

        class Dotted(Service, name="Orders.v1"): ...


@pytest.mark.parametrize("timeout", [0, -1, 601, float("nan")])
def test_a_timeout_out_of_range_is_refused(timeout: float) -> None:
    with pytest.raises(InvalidArgument, match="over 0 and at most 600 s"):
        rpc(timeout=timeout)


def test_marked_methods_without_a_service_name_are_refused() -> None:
    with pytest.raises(TypeError, match=r'write class Nameless\(Service, name="\.\.\."\)'):

        class Nameless(Service):
            @rpc
            async def get(self) -> str:
                raise NotImplementedError


def test_a_contract_cannot_extend_another_under_a_new_name() -> None:
    with pytest.raises(TypeError, match="would speak for several services"):

        class OrdersTwo(Orders, name="orders-two"): ...


def test_a_reference_means_the_contracts_method() -> None:
    assert method_of(Orders.get).service == "orders"
    with pytest.raises(TypeError, match=r"OrdersImpl\.get is not an @rpc method"):
        method_of(OrdersImpl.get)


def test_an_annotation_may_name_a_class_defined_later() -> None:
    assert method_of(Forward.get).codec.arguments(pack({"what": "x"})) == {"what": "x"}


class Forward(Service, name="forward"):
    @rpc
    async def get(self, what: "Later") -> None:
        raise NotImplementedError


class Later(str):
    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return handler(str)


async def test_a_client_is_an_object_of_the_contracts_class_that_calls() -> None:
    recorder = Recorder()
    orders = client_of(Orders, recorder, 2.0)

    assert isinstance(orders, Orders)
    assert await orders.get("1") == "done"
    assert recorder.calls == [("orders", "get", ("1",), {}, 2.0)]
    assert orders.describe() == "orders"


def test_a_client_does_not_run_the_contracts_constructor() -> None:
    class Needy(Service, name="needy"):
        def __init__(self, database: str) -> None:
            raise AssertionError("a client has no database")

        @rpc
        async def get(self) -> str:
            raise NotImplementedError

    assert isinstance(client_of(Needy, Recorder(), None), Needy)
