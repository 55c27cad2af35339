"""Manifests: one text for one set of documents, and nothing else is one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.policy.manifest import MANIFEST_LIMIT, MOST_DOCUMENTS, Manifest, ManifestError, hash_of

NAMES = st.from_regex(r"(Service|Mesh|Revocations)/[a-z][a-z0-9-]{0,20}", fullmatch=True)
BUNDLES = st.dictionaries(NAMES, st.binary(max_size=8), max_size=12)


@given(BUNDLES)
def test_a_manifest_is_read_back_as_itself_whatever_the_order_it_was_made_in(documents: dict[str, bytes]) -> None:
    manifest = Manifest.of(documents)
    backwards = Manifest.of(dict(reversed(documents.items())))

    assert Manifest.read(manifest.text) == manifest == backwards
    assert manifest.hash == backwards.hash


@given(BUNDLES, BUNDLES)
def test_two_bundles_have_one_hash_only_if_they_are_the_same(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert (Manifest.of(one).hash == Manifest.of(other).hash) == (one == other)


@given(BUNDLES, BUNDLES)
def test_what_changed_turns_the_one_into_the_other(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    told = Manifest.of(after).changed(Manifest.of(before))
    kept = {name: data for name, data in before.items() if name not in told}
    new = {name: after[name] for name, what in told.items() if what != "removed"}

    assert {**kept, **new} == after
    assert list(told) == sorted(told)


def test_only_what_is_not_held_is_missing_and_equal_documents_only_once() -> None:
    manifest = Manifest.of({"Service/a": b"1", "Service/b": b"2", "Service/c": b"2"})

    assert manifest.missing([hash_of(b"1")]) == [hash_of(b"2")]


@given(st.binary(max_size=200))
def test_other_bytes_are_refused_and_nothing_else_is_raised(data: bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.read(data)


GOOD = Manifest.of({"Mesh/mesh": b"m", "Service/a": b"1"}).text


@pytest.mark.parametrize(
    "bad",
    [
        GOOD[:-1],
        GOOD + b"\n",
        GOOD + GOOD.splitlines(keepends=True)[1],
        b"\n".join([*GOOD.splitlines()[::-1], b""]),
        GOOD.replace(b"Service/a", b"Service/A"),
        GOOD.replace(b"Service/a", b"Service/a*"),
        GOOD.replace(b"Service/a", b"Service/a\r"),
        GOOD.replace(b"manifest 1", b"manifest 2"),
        GOOD.replace(b"\n", b"\r\n"),
        GOOD + b"x" * MANIFEST_LIMIT,
    ],
)
def test_a_manifest_that_differs_in_one_place_is_none(bad: bytes) -> None:
    assert Manifest.read(GOOD)
    with pytest.raises(ManifestError):
        Manifest.read(bad)


def test_more_documents_than_a_bundle_may_have_are_refused() -> None:
    with pytest.raises(ManifestError, match=str(MOST_DOCUMENTS)):
        Manifest.read(Manifest({f"Service/s{n:05}": "0" * 64 for n in range(MOST_DOCUMENTS + 1)}).text)


def test_the_largest_bundle_there_may_be_fits_its_limit() -> None:
    longest = {f"Revocations{'x' * 20}/micro:{'S' * 59}{n:05}": "0" * 64 for n in range(MOST_DOCUMENTS)}

    assert len(Manifest(longest).text) <= MANIFEST_LIMIT
    assert len(Manifest.read(Manifest(longest).text)) == MOST_DOCUMENTS
