"""What is said, on the socket and inside envelopes: a frame is a MessagePack array `[kind, id, …]`.

A frame is a tuple, so its shape on the wire is its shape here. The payload is opaque, last, and never decoded by an
agent. Everything before it is small: a frame whose fields other than the payload exceed `HEAD_LIMIT` is refused before
any of it becomes a Python object, so a nest of a million empty lists costs nothing.

They travel in bunches: see `bunches.py`.

| kind | | fields after kind |
|---|---|---|
| 1 | CALL | id, service, method, ttl_ms, caller, head, payload |
| 2 | REPLY | id, head, payload |
| 3 | FAIL | id, code, reason, message, details, head |
| 4 | CANCEL | id |
| 5 | REFUSED | counter, hash, reason |
| 6–8 | ITEM, END, CREDIT | reserved for streams |
| 16 | HELLO | version, app, sdk, token |
| 17 | WELCOME | version, node, limits, largest_payload, home |
| 18 | SERVE | id, service, version, labels, methods, concurrency |
| 19 | SERVED | id, instance |
| 20 | WITHDRAW | id, instance |
| 21–22 | EVENT, SUBSCRIBE | reserved |
| 23, 24 | PING, PONG | id |
| 25 | DRAIN | |
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final, NamedTuple, TypeAlias

import msgpack

HEAD_LIMIT: Final = 32 * 1024
"""Bytes that the fields of a frame may take, the payload not counted."""
FRAME_LIMIT: Final = 8 * 1024 * 1024
"""Bytes that one frame may take on the socket."""
MAX_TTL_MS: Final = 600_000
"""The longest time that a call may be given: ten minutes."""
_MOST_FIELDS: Final = 8

Head: TypeAlias = dict[str, Any]


class FrameError(ValueError):
    """Bytes that are not a frame, with what is wrong about them."""


class Kind(IntEnum):
    """The first field of a frame. Numbers are for ever; 6–8, 21 and 22 are taken and not in use."""

    CALL = 1
    REPLY = 2
    FAIL = 3
    CANCEL = 4
    REFUSED = 5
    ITEM = 6
    END = 7
    CREDIT = 8
    HELLO = 16
    WELCOME = 17
    SERVE = 18
    SERVED = 19
    WITHDRAW = 20
    EVENT = 21
    SUBSCRIBE = 22
    PING = 23
    PONG = 24
    DRAIN = 25


class Call(NamedTuple):
    """Run a method. `caller` is stamped by the agent; what an app writes there is not read.

    `head`, where present: metadata {text: text}, traceparent, idempotent, idempotency_key, key, attempt, instance;
    on the socket also `expires_us`, the deadline on the machine's monotonic clock, which both ends share.
    """

    kind: int
    id: int
    service: str
    method: str
    ttl_ms: int
    caller: str
    head: Head | None
    payload: bytes


class Reply(NamedTuple):
    """The result of a call. `head`, where present: instance, load (calls in flight there)."""

    kind: int
    id: int
    head: Head | None
    payload: bytes


class Fail(NamedTuple):
    """Why a call has no result. `head`: ran, retry_after_ms, metadata, instance."""

    kind: int
    id: int
    code: int
    reason: str
    message: str
    details: Any
    head: Head | None


class Cancel(NamedTuple):
    """The caller no longer wants the answer to `id`."""

    kind: int
    id: int


class Refused(NamedTuple):
    """A whole envelope was not run by who received it: its counter and SHA-256 as received."""

    kind: int
    counter: int
    hash: bytes
    reason: str


class Hello(NamedTuple):
    """First frame of an app: what it speaks, and the app that it wants to speak as."""

    kind: int
    version: int
    app: str
    sdk: str
    token: str | None


class Welcome(NamedTuple):
    """The agent's answer to HELLO. `home` is named to the agent's own user only."""

    kind: int
    version: int
    node: str
    limits: Head
    largest_payload: int
    home: str | None


class Method(NamedTuple):
    """A method as an instance offers it. `timeout_ms` is 0 when the contract names none."""

    name: str
    idempotent: bool
    timeout_ms: int
    schema: str


class Serve(NamedTuple):
    """Offer a service from this session, which runs `concurrency` calls at once; answered by SERVED or FAIL."""

    kind: int
    id: int
    service: str
    version: str
    labels: dict[str, str]
    methods: tuple[Method, ...]
    concurrency: int


class Served(NamedTuple):
    """The instance that the agent made of a SERVE."""

    kind: int
    id: int
    instance: str


class Withdraw(NamedTuple):
    """Stop serving an instance; the agent says the same back once nothing more will come to it."""

    kind: int
    id: int
    instance: str


class Ping(NamedTuple):
    """Are you there? (kind 23) Yes. (kind 24)"""

    kind: int
    id: int


class Drain(NamedTuple):
    """The agent is leaving: it takes no new call and closes once it has answered what it has.

    The app says it back: what it had to call before it heard has been said.
    """

    kind: int


Fields: TypeAlias = tuple[Any, ...]
"""A frame whose fields have no names; what they are is known from the first."""
Frame: TypeAlias = Call | Reply | Fail | Cancel | Refused | Hello | Welcome | Serve | Served | Withdraw | Ping | Drain

_pack: Final[Callable[[Any], bytes]] = msgpack.Packer(autoreset=True).pack
_unpack: Final[Callable[..., Any]] = msgpack.unpackb
_new: Final[Callable[..., Any]] = tuple.__new__  # what _make does, without its cost


encode: Final[Callable[[Fields], bytes]] = _pack
"""Return the bytes of a frame. On the path of a call a plain tuple is given: a named one costs as much as its bytes."""


def decode(data: bytes) -> Frame:
    """Return the frame that `data` is; raise FrameError saying what is wrong with it."""
    return named(read(data))


def read(data: bytes) -> Fields:
    """Return the fields of the frame that `data` is, checked as `decode` does, in half its time."""
    return fit(value(data))


def fit(fields: Any) -> Fields:
    """Return what a bunch holds as the frame that it is; raise FrameError saying what is wrong with it."""
    if type(fields) is tuple:
        # The two that every call needs, checked here: a function call each would take as long as the check.
        if len(fields) == 8:
            kind, number, service, method, ttl_ms, caller, head, payload = fields
            if (
                type(kind) is int
                and kind == 1
                and type(number) is int
                and number >= 0
                and type(service) is str
                and type(method) is str
                and type(ttl_ms) is int
                and 0 <= ttl_ms <= MAX_TTL_MS
                and type(caller) is str
                and (head is None or type(head) is dict)
                and type(payload) is bytes
            ):
                return fields
        elif len(fields) == 4:
            kind, number, head, payload = fields
            if (
                type(kind) is int
                and kind == 2
                and type(number) is int
                and number >= 0
                and (head is None or type(head) is dict)
                and type(payload) is bytes
            ):
                return fields
    return _seldom(fields)


def _seldom(fields: Any) -> Fields:
    """Return the fields of a frame that is neither a good CALL nor a good REPLY, if they are good ones."""
    if type(fields) is not tuple or not fields or type(fields[0]) is not int:
        raise FrameError("not an array that starts with a kind")
    if fields[0] not in _SHAPES:
        raise FrameError(f"unknown or reserved kind {fields[0]}")
    fits = _SHAPES[fields[0]][1]
    if not fits(fields):
        raise FrameError(f"wrong fields for {Kind(fields[0]).name}")
    return fields


def named(fields: Fields) -> Frame:
    """Return what `read` gave as the frame it is."""
    frame: Frame = _new(_NAMED[fields[0]], fields)
    if type(frame) is Serve:
        return frame._replace(methods=tuple(Method._make(method) for method in frame.methods))
    return frame


def value(data: bytes) -> Any:
    """Return what MessagePack says, as `fit` takes it; raise FrameError for what is none, or has too large a head."""
    if len(data) > HEAD_LIMIT:
        _measure_head(data)
    try:
        return _unpack(data, use_list=False, strict_map_key=True, max_ext_len=0)
    except Exception as error:  # msgpack raises a dozen unrelated classes, RecursionError-like StackError included
        raise FrameError(f"not MessagePack: {type(error).__name__}") from None


def _measure_head(data: bytes) -> None:
    """Refuse a large frame unless what is large is a byte string at its end, without building any of it."""
    reader = msgpack.Unpacker(max_buffer_size=len(data), max_bin_len=len(data))
    reader.feed(data)
    try:
        fields = reader.read_array_header()
        for _ in range(min(fields, _MOST_FIELDS) - 1):
            reader.skip()
    except Exception as error:
        raise FrameError(f"not MessagePack: {type(error).__name__}") from None
    at = reader.tell()
    if fields > _MOST_FIELDS or at > HEAD_LIMIT or data[at : at + 1] not in (b"\xc4", b"\xc5", b"\xc6"):
        raise FrameError(f"over {HEAD_LIMIT} bytes before the payload")


def _is_head(value: object) -> bool:
    return value is None or type(value) is dict


def _is_u64(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 64


def _never(f: Fields) -> bool:
    return False  # `read` has found something wrong already


def _fail(f: Fields) -> bool:
    return (
        len(f) == 7 and _is_u64(f[1]) and _is_u64(f[2]) and type(f[3]) is str and type(f[4]) is str and _is_head(f[6])
    )


def _refused(f: Fields) -> bool:
    return len(f) == 4 and _is_u64(f[1]) and type(f[2]) is bytes and len(f[2]) == 32 and type(f[3]) is str


def _hello(f: Fields) -> bool:
    known = len(f) == 5 and _is_u64(f[1]) and type(f[2]) is str and type(f[3]) is str
    return known and type(f[4]) in (str, type(None))


def _welcome(f: Fields) -> bool:
    known = len(f) == 6 and _is_u64(f[1]) and type(f[2]) is str and type(f[3]) is dict and _is_u64(f[4])
    return known and type(f[5]) in (str, type(None))


def _serve(f: Fields) -> bool:
    if len(f) != 7 or not (_is_u64(f[1]) and _is_u64(f[6])) or tuple(map(type, f[2:6])) != (str, str, dict, tuple):
        return False
    if not all(type(k) is str and type(v) is str for k, v in f[4].items()):
        return False
    shape = (str, bool, int, str)
    return all(type(m) is tuple and tuple(map(type, m)) == shape and 0 <= m[2] <= MAX_TTL_MS for m in f[5])


def _instance(f: Fields) -> bool:
    return len(f) == 3 and _is_u64(f[1]) and type(f[2]) is str


def _number(f: Fields) -> bool:
    return len(f) == 2 and _is_u64(f[1])


def _drain(f: Fields) -> bool:
    return len(f) == 1


_SHAPES: Final[dict[int, tuple[type, Callable[[Fields], bool]]]] = {
    1: (Call, _never),
    2: (Reply, _never),
    3: (Fail, _fail),
    4: (Cancel, _number),
    5: (Refused, _refused),
    16: (Hello, _hello),
    17: (Welcome, _welcome),
    18: (Serve, _serve),
    19: (Served, _instance),
    20: (Withdraw, _instance),
    23: (Ping, _number),
    24: (Ping, _number),
    25: (Drain, _drain),
}
_NAMED: Final = {kind: name for kind, (name, _) in _SHAPES.items()}
