"""The YAML that is taken, the YAML that is not, and the lines."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus_mesh.policy.yaml_lines import MAX_DOCUMENT, YamlError, read


def value(text: str) -> object:
    (document,) = read(text)
    return document.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3),
        ("-7", -7),
        ("1.5", 1.5),
        ("true", True),
        ("null", None),
        ("~", None),
        ("yes", "yes"),
        ("off", "off"),
        ("1:30", "1:30"),
        ("012", "012"),
        ("2026-12-01", "2026-12-01"),
        ("9" * 30, "9" * 30),
        (".inf", ".inf"),
        ("'3'", "3"),
        ('"true"', "true"),
        ("|\n  3\n", "3\n"),
        ("{1: a, null: b}", {"1": "a", "null": "b"}),
        ("<<: {a: 1}", {"<<": {"a": 1}}),
    ],
)
def test_plain_words_follow_the_core_schema_and_keys_are_text(text: str, expected: object) -> None:
    assert value(text) == expected


def test_every_value_knows_its_line() -> None:
    (document,) = read("a:\n  b: [1,\n    2]\nc:\n- d: x\n")

    assert document.spot.at(["a", "b", 0]).line == 2
    assert document.spot.at(["a", "b", 1]).line == 3
    assert document.spot.at(["c", 0, "d"]).line == 5
    assert document.spot.at(["c", 0, "missing", "deeper"]).line == 5


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("a: &x 1", 1, "anchors"),
        ("a: 1\nb: *x", 2, "anchors"),
        ("a: 1\nb: !!str 2", 2, "tag"),
        ("!!python/object/apply:os.system [ls]", 1, "tag"),
        ("a: 1\nb: 2\na: 3", 3, "the key a stands twice, first on line 1"),
        ("{[1]: 2}", 1, "a key must be text"),
        ("[" * 40 + "]" * 40, 1, "levels"),
        ("a: [1\nb: 2", 2, "not YAML"),
        ("a: \x01", 1, "not YAML"),
        ("a: \ud800", 1, "not YAML"),
        ("a:\tb\n\t- c", 2, "not YAML"),
        ("a: " + "x" * MAX_DOCUMENT, 1, "a document of"),
    ],
)
def test_what_could_expand_build_or_confuse_is_refused_with_its_line(text: str, line: int, told: str) -> None:
    with pytest.raises(YamlError, match=told) as error:
        read(text)

    assert error.value.line == line


def test_a_billion_laughs_are_none() -> None:
    laughs = "a: &a [x, x]\n" + "\n".join(
        f"{b}: &{b} [*{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )

    with pytest.raises(YamlError, match="anchors"):
        read(laughs)


@settings(max_examples=400, deadline=None)
@given(st.text("ab01:-[]{}#&*!|>'\"%@`,? \n\t.~", max_size=60) | st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read(text)
    except YamlError as error:
        assert error.line >= 1


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.text('a1 :#\n"\\é𐀀', max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
        max_leaves=10,
    )
)
def test_json_is_read_as_json(data: object) -> None:
    assert value(json.dumps(data, ensure_ascii=False)) == data
