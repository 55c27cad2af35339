"""What a request to the policy agent says: a mapping in MessagePack, each field of the type that it must have."""

from typing import Any, TypeAlias

import msgpack

from bus_mesh.protocol.errors import InvalidArgument, Ran

__all__ = ["Arguments", "counting", "field", "read"]

Arguments: TypeAlias = dict[str, Any]


def read(payload: bytes) -> Arguments:
    """Return what a request says; raise InvalidArgument for bytes that are none."""
    try:
        said = msgpack.unpackb(payload, use_list=False, strict_map_key=True, max_ext_len=0)
    except Exception:  # msgpack raises a dozen unrelated classes
        said = None
    if type(said) is not dict:
        raise InvalidArgument("a request is a mapping in MessagePack", ran=Ran.NO)
    return said


def field(arguments: Arguments, name: str, kind: type) -> Any:
    """Return one thing that a request says; raise InvalidArgument where it is lacking, or of another type."""
    value = arguments.get(name)
    if type(value) is not kind:
        raise InvalidArgument(f"{name!r} must be of type {kind.__name__}", ran=Ran.NO)
    return value


def counting(arguments: Arguments, name: str) -> int:
    """Return a number of a request, 0 or more; raise InvalidArgument for anything else."""
    value = field(arguments, name, int)
    if not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise InvalidArgument(f"{name!r} must be a number, 0 or more", ran=Ran.NO)
    return value
