"""Values of calls as plain clients and services of NATS write them: JSON there, MessagePack in the mesh.

Pure. What JSON has no word for is written as text, bytes in base64.
"""

import base64
import json
from typing import Any

import msgpack

__all__ = ["from_json", "to_json"]


def to_json(packed: bytes) -> bytes:
    """Return a value as JSON; raise ValueError for what is no MessagePack, or cannot be written."""
    try:
        value = msgpack.unpackb(packed, strict_map_key=False, max_ext_len=0)
        return json.dumps(value, default=_text, allow_nan=False).encode()
    except Exception as error:  # msgpack raises a dozen unrelated classes, and json for what an app made its value of
        raise ValueError(f"it is no JSON: {error}") from None


def from_json(data: bytes, *, kind: type = object) -> bytes:
    """Return JSON as MessagePack; raise ValueError for what is none, does not fit in, or is not of that kind."""
    try:
        value = json.loads(data)
        packed: bytes = msgpack.packb(value)
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError(str(error)[:200] or type(error).__name__) from None
    if not isinstance(value, kind):
        raise ValueError(f"it is a {type(value).__name__}, not a {kind.__name__}")
    return packed


def _text(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
