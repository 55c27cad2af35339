"""Where a call stands in a trace: W3C Trace Context, level 1 (`traceparent`).

Pure. Read strictly, as the recommendation says: what is not valid is as good as none, and a later version is read as
far as this one goes.
"""

import re
from typing import Final, NamedTuple

__all__ = ["Trace", "parse"]

_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL)
_SAMPLED: Final = 1
LONGEST: Final = 512


class Trace(NamedTuple):
    """The trace that something belongs to, and the span that is its parent."""

    trace_id: str
    span_id: str
    sampled: bool

    def text(self) -> str:
        """Return it as a `traceparent`."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse(text: object) -> Trace | None:
    """Return what a `traceparent` says, or None for what is none."""
    if type(text) is not str or len(text) > LONGEST:
        return None
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    later = version != "00"
    if version == "ff" or (more and not later) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return Trace(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))
