import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.bus.pattern import check_pattern, check_subject, is_literal, matches

TOKEN = st.text("abc", min_size=1, max_size=2)
SUBJECT = st.lists(TOKEN, min_size=1, max_size=5).map(".".join)


@given(SUBJECT)
def test_a_subject_matches_itself_and_what_has_everything(subject: str) -> None:
    assert matches(subject, subject)
    assert matches(">", subject)


@given(SUBJECT, st.data())
def test_a_star_takes_any_one_token(subject: str, data: st.DataObject) -> None:
    tokens = subject.split(".")
    tokens[data.draw(st.integers(0, len(tokens) - 1))] = "*"

    assert matches(".".join(tokens), subject)
    assert not matches(".".join([*tokens, "*"]), subject)


@given(SUBJECT)
def test_a_tail_takes_one_token_or_more_but_not_none(subject: str) -> None:
    assert matches(f"{subject}.>", f"{subject}.a")
    assert matches(f"{subject}.>", f"{subject}.a.b")
    assert not matches(f"{subject}.>", subject)


def test_a_published_wildcard_is_an_ordinary_token() -> None:
    assert matches("rpc.pay.*", "rpc.pay.*")
    assert not matches("rpc.pay.get", "rpc.pay.*")


@given(SUBJECT)
def test_names_without_wildcards_are_literal_and_valid(subject: str) -> None:
    check_pattern(subject)
    check_subject(subject)

    assert is_literal(subject)
    assert not is_literal(f"{subject}.*")


@pytest.mark.parametrize("subject", ["", " ", "a b", "a\n", "a\r", "a\tb"])
def test_blanks_are_in_no_subject(subject: str) -> None:
    with pytest.raises(ValueError, match="blank"):
        check_subject(subject)
