import enum
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgpack
import pytest
from bus_mesh_sdk import Internal, InvalidArgument, Service, rpc
from bus_mesh_sdk._codec import Codec, Mismatch, pack, request_of, unpack
from bus_mesh_sdk._service import method_of
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel


class Colour(enum.Enum):
    RED = "red"


class Size(enum.StrEnum):
    BIG = "big"


class Item(BaseModel):
    sku: str
    qty: int = 1


class Everything(BaseModel):
    at: datetime
    day: date
    took: timedelta
    id: UUID
    price: Decimal
    raw: bytes
    tags: set[str]
    pair: tuple[int, str]
    colour: Colour
    by_id: dict[UUID, Item]
    nothing: None = None


@dataclass
class Point:
    x: int
    y: float


class Shop(Service, name="shop"):
    @rpc
    async def plain(self, text: str, count: int = 1, *, ratio: float | None = None) -> str:
        raise NotImplementedError

    @rpc
    async def item(self, item: Item, note: str = "") -> Item:
        raise NotImplementedError

    @rpc
    async def everything(self, what: Everything) -> Everything:
        raise NotImplementedError

    @rpc
    async def point(self, point: Point, size: Size) -> list[Point]:
        raise NotImplementedError

    @rpc
    async def nothing(self) -> None:
        raise NotImplementedError


def codec(function: Callable[..., Any]) -> Codec:
    return method_of(function).codec


def there_and_back(function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    return codec(function).arguments(codec(function).request(args, kwargs))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidArgument) as caught:
        call()
    assert caught.value.ran == "no"
    return caught.value.message


EVERYTHING = Everything(
    at=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    day=date(2026, 1, 2),
    took=timedelta(hours=1, microseconds=3),
    id=UUID(int=7),
    price=Decimal("1.10"),
    raw=b"\x00\xff",
    tags={"a", "b"},
    pair=(1, "x"),
    colour=Colour.RED,
    by_id={UUID(int=1): Item(sku="tea")},
)


def test_parameters_travel_as_one_map_by_name() -> None:
    payload = codec(Shop.plain).request(("a",), {"ratio": 0.5})

    assert msgpack.unpackb(payload) == {"text": "a", "ratio": 0.5}


def test_a_model_travels_as_a_map() -> None:
    assert msgpack.unpackb(codec(Shop.item).request((Item(sku="tea"),), {})) == {"item": {"sku": "tea", "qty": 1}}


def test_every_type_comes_back_as_it_was() -> None:
    assert there_and_back(Shop.everything, EVERYTHING) == {"what": EVERYTHING}


def test_bytes_in_a_model_travel_as_bytes() -> None:
    payload = codec(Shop.everything).request((EVERYTHING,), {})

    assert msgpack.unpackb(payload)["what"]["raw"] == b"\x00\xff"


def test_dataclasses_and_enums_come_back_as_they_were() -> None:
    assert there_and_back(Shop.point, Point(1, 2.5), Size.BIG) == {"point": Point(1, 2.5), "size": Size.BIG}


def test_a_default_is_left_to_the_service() -> None:
    assert there_and_back(Shop.plain, "a") == {"text": "a"}


def test_an_unknown_parameter_is_ignored() -> None:
    assert codec(Shop.plain).arguments(pack({"text": "a", "colour": "red"})) == {"text": "a"}


def test_an_unknown_field_of_a_model_is_ignored() -> None:
    assert codec(Shop.item).arguments(pack({"item": {"sku": "tea", "new": 1}})) == {"item": Item(sku="tea")}


def test_an_int_will_do_for_a_float() -> None:
    found = codec(Shop.plain).arguments(pack({"text": "a", "ratio": 2}))

    assert type(found["ratio"]) is float


def test_a_missing_parameter_is_named() -> None:
    assert refused(lambda: codec(Shop.plain).arguments(pack({}))) == "shop.plain: parameter 'text' is missing"


def test_a_wrong_plain_parameter_is_named_with_what_was_expected_and_what_came() -> None:
    said = refused(lambda: codec(Shop.plain).arguments(pack({"text": "a", "count": "many"})))

    assert said == "shop.plain: parameter 'count': expected int, came str 'many'"


@pytest.mark.parametrize("value", [True, 1.0, None, [], {}])
def test_only_an_int_is_an_int(value: Any) -> None:
    assert "expected int" in refused(lambda: codec(Shop.plain).arguments(pack({"text": "", "count": value})))


def test_a_wrong_field_of_a_model_is_named() -> None:
    said = refused(lambda: codec(Shop.item).arguments(pack({"item": {"qty": "many"}})))

    assert "parameter 'item': sku: Field required; qty: Input should be a valid integer" in said
    assert said.endswith("came str 'many'")


def test_a_huge_wrong_value_is_not_echoed() -> None:
    said = refused(lambda: codec(Shop.plain).arguments(pack({"text": "a", "count": "x" * 100_000})))
    nested = refused(lambda: codec(Shop.item).arguments(pack({"item": ["x" * 100_000] * 3})))

    assert said.endswith("came str of 100000 characters")
    assert len(nested) < 200


def test_the_wrong_fields_of_one_value_are_counted_not_listed() -> None:
    class Many(Service, name="many"):
        @rpc
        async def take(self, items: list[Item]) -> None:
            raise NotImplementedError

    said = refused(lambda: codec(Many.take).arguments(pack({"items": [1] * 1000})))

    assert said.endswith("; and 997 more")


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x93\x01", b"\x01\x02", pack([1]), pack(None)])
def test_what_is_no_map_of_parameters_is_refused(payload: bytes) -> None:
    assert refused(lambda: codec(Shop.plain).arguments(payload)).startswith("shop.plain: ")


@given(st.binary(max_size=200))
def test_no_bytes_make_the_parameters_raise_anything_else(payload: bytes) -> None:
    for method in (Shop.plain, Shop.item, Shop.everything):
        try:
            codec(method).arguments(payload)
        except InvalidArgument as error:
            assert len(error.message) < 1500


PLAIN_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(PLAIN_VALUES)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    assert unpack(pack(value)) == value


def test_wrong_arguments_are_refused_as_python_refuses_them() -> None:
    request = codec(Shop.plain).request
    with pytest.raises(TypeError, match="missing required arguments: text"):
        request((), {})
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        request(("a",), {"colour": 1})
    with pytest.raises(TypeError, match="multiple values for argument 'text'"):
        request(("a",), {"text": "b"})
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        request(("a", 1, 0.5), {})


def test_a_wrong_argument_is_refused_before_it_leaves() -> None:
    assert "expected int, came str 'x'" in refused(lambda: codec(Shop.plain).request(("a", "x"), {}))
    assert "parameter 'item'" in refused(lambda: codec(Shop.item).request(("tea",), {}))


def test_what_cannot_travel_is_refused_with_the_reason() -> None:
    assert "64 bits" in refused(lambda: codec(Shop.plain).request(("a", 1 << 70), {}))
    assert "lone surrogates" in refused(lambda: codec(Shop.plain).request(("\ud800",), {}))
    assert refused(lambda: request_of("a.b", {"x": object()})).startswith("a.b: ")


def test_a_call_by_name_takes_models_dates_and_sets() -> None:
    payload = request_of("a.b", {"item": Item(sku="tea"), "day": date(2026, 1, 2), "tags": {"a"}, "id": UUID(int=1)})

    assert msgpack.unpackb(payload) == {
        "item": {"sku": "tea", "qty": 1},
        "day": "2026-01-02",
        "tags": ["a"],
        "id": str(UUID(int=1)),
    }


def test_a_result_is_what_the_contract_says() -> None:
    assert codec(Shop.item).result(None, codec(Shop.item).answer(Item(sku="tea"))) == Item(sku="tea")
    assert codec(Shop.point).result(None, pack([{"x": 1, "y": 2}])) == [Point(1, 2.0)]
    assert codec(Shop.nothing).result(None, pack(None)) is None


def test_a_result_that_the_contract_does_not_say_is_the_services_fault() -> None:
    with pytest.raises(Internal, match=r"shop\.item answered what its contract does not say") as caught:
        codec(Shop.item).result(None, pack({"qty": 1}))

    assert caught.value.ran == "yes"


def test_a_handler_that_returns_something_else_is_told_what_it_promised() -> None:
    with pytest.raises(TypeError, match=r"the result of shop\.plain: expected str, came int 1"):
        codec(Shop.plain).answer(1)


def test_a_type_that_cannot_travel_is_refused_when_the_method_is_bound() -> None:
    class Socket:
        pass

    class Odd(Service, name="odd"):
        @rpc
        async def take(self, what: Socket) -> None:
            raise NotImplementedError

    with pytest.raises(TypeError, match=r"Socket.* cannot travel"):
        codec(Odd.take)


def test_the_schema_changes_with_a_model() -> None:
    def schema(kind: type) -> str:
        class One(Service, name="one"):
            @rpc
            async def take(self, item: kind) -> None:  # type: ignore[valid-type]  # the point of it
                raise NotImplementedError

        return method_of(One.take).offered().schema

    class Other(BaseModel):
        sku: str

    assert schema(Item) == schema(Item) != schema(Other)


def test_the_schema_is_that_of_json_with_a_word_for_what_json_has_not() -> None:
    class Two(Service, name="two"):
        @rpc
        async def take(self, item: Item, count: int | None = None, raw: bytes = b"", more: Any = None) -> list[str]:
            raise NotImplementedError

    found = json.loads(codec(Two.take).schema())

    assert found["parameters"]["required"] == ["item"]
    assert found["parameters"]["properties"] == {
        "item": Item.model_json_schema(),
        "count": {"anyOf": [{"type": "null"}, {"type": "integer"}]},
        "raw": {"type": "string", "format": "binary"},
        "more": {},
    }
    assert found["result"] == {"type": "array", "items": {"type": "string"}}


def test_deep_nesting_is_refused_not_crashed_on() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]

    with pytest.raises(Mismatch):
        pack(deep)
    with pytest.raises(Mismatch):
        unpack(b"\x91" * 5000)
