import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.protocol.trace import Trace, parse

ID, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEX = "0123456789abcdef"


@given(st.text(HEX, min_size=32, max_size=32), st.text(HEX, min_size=16, max_size=16), st.booleans())
def test_what_is_written_is_read(trace_id: str, span_id: str, sampled: bool) -> None:
    trace = Trace(trace_id, span_id, sampled)
    valid = bool(trace_id.strip("0") and span_id.strip("0"))

    assert parse(trace.text()) == (trace if valid else None)


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{1,3}.{0,4}", fullmatch=True))
def test_whatever_comes_is_a_trace_or_none(text: str) -> None:
    found = parse(text)

    assert found is None or (len(found.trace_id), len(found.span_id)) == (32, 16)


@pytest.mark.parametrize(
    ("text", "sampled"),
    [(f"00-{ID}-{SPAN}-01", True), (f"00-{ID}-{SPAN}-02", False), (f"cc-{ID}-{SPAN}-03-more", True)],
)
def test_flags_are_bits_and_later_versions_may_say_more(text: str, sampled: bool) -> None:
    assert parse(text) == Trace(ID, SPAN, sampled)


@pytest.mark.parametrize(
    "text",
    [
        *(f"ff-{ID}-{SPAN}-01", f"00-{ID}-{SPAN}-01-more", f"00-{ID.upper()}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01"),
        *(f"00-{ID}-{'0' * 16}-01", f" 00-{ID}-{SPAN}-01", f"00-{ID}-{SPAN}-01\n", "", None, 7),
        f"cc-{ID}-{SPAN}-01-" + "x" * 600,
    ],
)
def test_what_is_not_valid_is_none(text: object) -> None:
    assert parse(text) is None
