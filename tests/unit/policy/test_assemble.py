"""A bundle is whole or nothing, whoever sends its parts, in whatever order, with whatever between them."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.policy.assemble import Assembly, BundleRefused
from bus_mesh.policy.follow import InForce
from bus_mesh.policy.manifest import DOCUMENT_LIMIT, Manifest, hash_of


def service(name: str, timeout: str = "2s") -> bytes:
    return (
        f"kind: Service\nname: {name}\naccess: {{allow: [{{from: [web], methods: [get]}}]}}\n"
        f"traffic: {{timeout: {timeout}}}\n"
    ).encode()


SHOP = {"Mesh/mesh": b"kind: Mesh\n", "Service/orders": service("orders"), "Service/stock": service("stock")}


def assembly(documents: Mapping[str, bytes] = SHOP, held: Mapping[str, bytes] | None = None) -> Assembly:
    return Assembly(InForce(1, 7, Manifest.of(documents).hash, 1), held or {})


def filled(documents: Mapping[str, bytes]) -> Assembly:
    made = assembly(documents)
    made.supply(Manifest.of(documents).text)
    for data in documents.values():
        made.supply(data)
    return made


def test_the_manifest_is_wanted_first_and_then_what_it_lists() -> None:
    made = assembly()
    assert made.wants() == [Manifest.of(SHOP).hash.hex()]
    assert not made.supply(SHOP["Mesh/mesh"]), "nothing is taken before it is known to belong here"

    assert made.supply(Manifest.of(SHOP).text)
    assert made.wants() == [hash_of(SHOP[name]) for name in sorted(SHOP)]


def test_what_is_at_hand_is_not_asked_for_so_a_change_of_one_service_moves_that_document() -> None:
    after = {**SHOP, "Service/orders": service("orders", "3s")}
    made = assembly(after, held={hash_of(data): data for data in SHOP.values()})
    made.supply(Manifest.of(after).text)

    assert made.wants() == [hash_of(after["Service/orders"])]
    made.supply(after["Service/orders"])
    assert made.policy({}).timeout("orders", "get") == 3.0


@given(st.permutations([*SHOP.values(), *SHOP.values(), b"noise", b"kind: Mesh", b""]))
def test_the_order_and_what_else_comes_make_no_difference(parts: list[bytes]) -> None:
    made = assembly()
    made.supply(Manifest.of(SHOP).text)
    for data in parts:
        before = made.whole
        made.supply(data)
        assert made.whole >= before

    policy = made.policy({})
    assert (policy.number, sorted(policy.services)) == (7, ["orders", "stock"])


def test_a_bundle_that_lacks_something_has_no_documents() -> None:
    made = assembly()
    with pytest.raises(LookupError):
        made.documents()
    made.supply(Manifest.of(SHOP).text)
    with pytest.raises(LookupError):
        made.documents()


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ({"Service/orders": b"kind: Service\nname: orders\ntrafic: {}\n"}, "did you mean traffic?"),
        ({"Service/orders": b"kind: Service\nname: orders\nevents: {publish: [a]}\n"}, "not yet enforced"),
        ({"Service/orders": service("stock")}, "not just the one of that kind and name"),
        ({"Service/orders": service("orders") + b"---\n" + service("stock")}, "holds 2 documents"),
        ({"Service/orders": b""}, "holds 0 documents"),
        ({"Service/orders": b"\xff"}, "is not UTF-8"),
        ({"Service/orders": b"[]"}, "must be a mapping"),
        ({"Service/orders": b"a: &a [*a]"}, "Service/orders:1"),
        ({"Mesh/one": b"kind: Mesh\nname: one\n", "Mesh/two": b"kind: Mesh\nname: two\n"}, "stands twice"),
    ],
)
def test_one_document_that_is_not_understood_refuses_the_whole_with_the_reason(
    documents: dict[str, bytes], said: str
) -> None:
    with pytest.raises(BundleRefused) as error:
        filled({**SHOP, **documents} if "Mesh/one" not in documents else documents).policy({})

    assert said in str(error.value)
    assert len(str(error.value)) < 2000


def test_a_head_that_names_what_is_no_manifest_is_refused() -> None:
    made = Assembly(InForce(1, 1, Manifest.of(SHOP).hash, 1), {})
    wrong = Assembly(InForce(1, 1, bytes.fromhex(hash_of(b"nonsense")), 1), {})

    assert not made.supply(b"nonsense")
    with pytest.raises(BundleRefused, match="its manifest"):
        wrong.supply(b"nonsense")


def test_a_document_over_the_limit_is_not_taken() -> None:
    large = {"Service/orders": b"#" * (DOCUMENT_LIMIT + 1)}
    made = assembly(large)
    made.supply(Manifest.of(large).text)

    assert not made.supply(large["Service/orders"])
    assert not made.whole
