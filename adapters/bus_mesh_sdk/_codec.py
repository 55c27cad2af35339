"""Parameters and results, as MessagePack.

Parameters travel as one map by name, a result as one value. What is annotated with plain types (str, int, float, bool,
bytes, None, and unions of them) is checked here, in a microsecond; anything else is pydantic's, which is imported when
the first such annotation is bound. On the wire a model is a map, a date or UUID its text, bytes stay bytes.
"""

import threading
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgpack

from bus_mesh.protocol.errors import Internal, InvalidArgument, MeshError, Ran
from bus_mesh.protocol.frames import Head

_JSON: Final[dict[type, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    bytes: {"type": "string", "format": "binary"},
    type(None): {"type": "null"},
}
_PLAIN: Final = frozenset(_JSON)
_SHOWN: Final = 40
"""Characters of a wrong value that an error shows."""
_PROBLEMS: Final = 3
"""Wrong fields of one value that an error names."""
_MISSING: Final = object()


class Mismatch(Exception):
    """A value that is not what its annotation says: `text` tells what was expected and what came."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)


class Shape(Protocol):
    """What one annotation means on the wire. Values of the `exact` types are the same there and here."""

    exact: frozenset[type]

    def read(self, value: Any) -> Any:
        """Return the value that the wire form `value` stands for, or raise Mismatch."""

    def write(self, value: Any) -> Any:
        """Return what MessagePack is to carry for `value`, or raise Mismatch."""


class _Anything:
    """Any, or no annotation: passes as it is."""

    exact: frozenset[type] = frozenset()

    def read(self, value: Any) -> Any:
        return value

    def write(self, value: Any) -> Any:
        return value


class _Plain:
    """A plain type or a union of them, matched exactly; an int is also a float."""

    def __init__(self, kinds: frozenset[type]) -> None:
        self.exact = kinds

    def read(self, value: Any) -> Any:
        if type(value) in self.exact:
            return value
        if type(value) is int and float in self.exact:
            return float(value)
        raise Mismatch(f"expected {self._names()}, came {describe(value)}")

    def write(self, value: Any) -> Any:
        if type(value) in self.exact:
            return value
        for kind in self.exact:
            if isinstance(value, kind):
                return kind(value)  # a StrEnum is sent as the str it is
        return self.read(value)

    def _names(self) -> str:
        return " or ".join(sorted("None" if kind is type(None) else kind.__name__ for kind in self.exact))


class _Model:
    """Whatever pydantic understands: models, dataclasses, containers, dates, enums."""

    exact: frozenset[type] = frozenset()

    def __init__(self, annotation: Any) -> None:
        import pydantic
        from pydantic_core import PydanticSerializationError

        self._adapter = pydantic.TypeAdapter(annotation)
        self._invalid = pydantic.ValidationError
        self._unwritable = PydanticSerializationError

    def read(self, value: Any) -> Any:
        try:
            return self._adapter.validate_python(value)
        except self._invalid as error:
            raise Mismatch(_first_problems(error)) from None

    def write(self, value: Any) -> Any:
        try:
            return self._adapter.dump_python(value, warnings="error")
        except self._unwritable:
            raise Mismatch(f"expected {self._adapter!r}, came {describe(value)}") from None

    def schema(self) -> Any:
        return self._adapter.json_schema()


def shape_of(annotation: Any) -> Shape:
    """Return what `annotation` means on the wire; TypeError for what pydantic cannot make sense of."""
    if annotation is Any:
        return _Anything()
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    kinds = frozenset(
        type(None) if part is None else part for part in (typing.get_args(annotation) if union else [annotation])
    )
    if kinds <= _PLAIN:
        return _Plain(kinds)
    try:
        return _Model(annotation)
    except Exception as error:  # pydantic raises several unrelated classes for what it has no schema for
        raise TypeError(f"{annotation!r} cannot travel: {str(error).splitlines()[0]}") from error


class Codec:
    """Both directions of one method: `label` is its name in errors, for example `orders.get`."""

    def __init__(self, label: str, parameters: Mapping[str, tuple[Any, bool]], positional: int, result: Any) -> None:
        self.label = label
        self._names = tuple(parameters)
        self._positional = self._names[:positional]
        self._shapes = {name: shape_of(annotation) for name, (annotation, _) in parameters.items()}
        self._required = frozenset(name for name, (_, required) in parameters.items() if required)
        self._result = shape_of(result)

    def __repr__(self) -> str:
        return f"Codec({self.label}({', '.join(self._names)}))"

    def request(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return the payload of a call made with these arguments; TypeError as a Python call would raise it."""
        given = self._bind(args, kwargs)
        name, shapes = "", self._shapes
        try:
            for name, value in given.items():
                shape = shapes[name]
                if type(value) not in shape.exact:
                    given[name] = shape.write(value)
            return pack(given)
        except Mismatch as error:
            raise InvalidArgument(f"{self.label}: parameter {name!r}: {error.text}", ran=Ran.NO) from None

    def arguments(self, payload: bytes) -> dict[str, Any]:
        """Return the handler's keyword arguments; InvalidArgument naming the parameter that is wrong or missing."""
        try:
            said = unpack(payload)
        except Mismatch as error:
            raise InvalidArgument(f"{self.label}: the parameters are {error.text}", ran=Ran.NO) from None
        if type(said) is not dict:
            raise InvalidArgument(
                f"{self.label}: expected a map of parameters by name, came {describe(said)}", ran=Ran.NO
            )
        found = {}
        for name, shape in self._shapes.items():
            value = said.get(name, _MISSING)
            if type(value) in shape.exact:
                found[name] = value
            elif value is not _MISSING:
                try:
                    found[name] = shape.read(value)
                except Mismatch as error:
                    raise InvalidArgument(f"{self.label}: parameter {name!r}: {error.text}", ran=Ran.NO) from None
            elif name in self._required:
                raise InvalidArgument(f"{self.label}: parameter {name!r} is missing", ran=Ran.NO)
        return found

    def answer(self, result: Any) -> bytes:
        """Return the payload of a reply; TypeError when the handler returned something else than it promised."""
        try:
            return pack(result if type(result) in self._result.exact else self._result.write(result))
        except Mismatch as error:
            raise TypeError(f"the result of {self.label}: {error.text}") from None

    def result(self, head: Head | None, payload: bytes) -> Any:
        """Return the value that a reply stands for; Internal when it is not what the contract says."""
        try:
            value = unpack(payload)
            return value if type(value) in self._result.exact else self._result.read(value)
        except Mismatch as error:
            raise bad_result(self.label, error) from None

    def schema(self) -> str:
        """Return {"parameters", "result"} as JSON schemas, in one text that changes only when they do."""
        shapes = sorted(self._shapes.items())
        parameters = {
            "type": "object",
            "properties": {name: _schema(shape) for name, shape in shapes},
            "required": sorted(self._required),
        }
        import json  # 2 ms, which only who serves needs

        return json.dumps({"parameters": parameters, "result": _schema(self._result)}, sort_keys=True)

    def accepts(self, function: Callable[..., Any], bind: Callable[..., Any]) -> None:
        """Raise TypeError unless `bind` can call `function` with every parameter by name."""
        try:
            bind(**dict.fromkeys(self._names))
        except TypeError as error:
            raise TypeError(
                f"{function.__qualname__} cannot be called as {self.label}({', '.join(self._names)}): {error}"
            ) from None

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if len(args) > len(self._positional):
            raise TypeError(
                f"{self.label}() takes {len(self._positional)} positional arguments but {len(args)} were given"
            )
        given = dict(zip(self._positional, args))  # noqa: B905 - the check above is cheaper than `strict`
        if not kwargs and len(args) == len(self._names):
            return given
        for name, value in kwargs.items():
            if name in given:
                raise TypeError(f"{self.label}() got multiple values for argument {name!r}")
            if name not in self._shapes:
                raise TypeError(f"{self.label}() got an unexpected keyword argument {name!r}")
            given[name] = value
        if not self._required <= given.keys():
            missing = [name for name in self._names if name in self._required and name not in given]
            raise TypeError(f"{self.label}() missing required arguments: {', '.join(missing)}")
        return given


class _Packers(threading.local):
    """One packer a thread: a packer that is interrupted while it asks `default` must not be used by another."""

    def __init__(self) -> None:
        self.pack: Callable[[Any], bytes] = msgpack.Packer(default=_text_of, autoreset=True).pack


def pack(value: Any) -> bytes:
    """Return `value` as MessagePack; Mismatch when it holds something that cannot travel."""
    try:
        return _packers.pack(value)
    except OverflowError:
        raise Mismatch("an int of more than 64 bits cannot travel: send it as str") from None
    except UnicodeEncodeError:
        raise Mismatch("a str with lone surrogates cannot travel") from None
    except RecursionError:
        raise Mismatch("it is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise Mismatch(str(error).splitlines()[0][:200]) from None


def unpack(payload: bytes) -> Any:
    """Return the value that `payload` holds; Mismatch when it is not one MessagePack value."""
    try:
        return msgpack.unpackb(payload, strict_map_key=False, max_ext_len=0)
    except Exception as error:  # msgpack raises a dozen unrelated classes
        raise Mismatch(f"not MessagePack ({type(error).__name__})") from None


def request_of(label: str, params: Mapping[str, Any] | None) -> bytes:
    """Return the payload of a call by name, whose parameters nobody described."""
    try:
        return pack({} if params is None else dict(params))
    except Mismatch as error:
        raise InvalidArgument(f"{label}: {error.text}", ran=Ran.NO) from None


def value_of(label: str, payload: bytes) -> Any:
    """Return the result of a call by name as plain values."""
    try:
        return unpack(payload)
    except Mismatch as error:
        raise bad_result(label, error) from None


def bad_result(label: str, error: Mismatch) -> MeshError:
    """Return the error of a reply that is not what the contract says; the handler ran."""
    return Internal(f"{label} answered what its contract does not say: {error.text}", ran=Ran.YES)


def describe(value: Any) -> str:
    """Return what came, for an error: its type, and the value where it is short."""
    if value is None:
        return "nothing (null)"
    kind = type(value).__name__
    if isinstance(value, bool | int | float):
        return f"{kind} {str(value)[:_SHOWN]}"
    if isinstance(value, str) and len(value) <= _SHOWN:
        return f"{kind} {value!r}"
    try:
        return f"{kind} of {len(value)} {'characters' if isinstance(value, str) else 'items'}"
    except TypeError:
        return kind


def _first_problems(error: Any) -> str:
    problems = error.errors(include_url=False, include_context=False)
    shown = []
    for problem in problems[:_PROBLEMS]:
        at = ".".join(str(part)[:_SHOWN] for part in problem["loc"])
        came = "" if problem["type"] == "missing" else f", came {describe(problem['input'])}"
        shown.append(f"{at}: {problem['msg'][:200]}{came}" if at else f"{problem['msg'][:200]}{came}")
    more = len(problems) - _PROBLEMS
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")


def _text_of(value: Any) -> Any:
    """Return what MessagePack carries for a value it does not know: a model's map, a set's list, else a text."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump()
    if isinstance(value, set | frozenset):
        return list(value)
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value)


def _schema(shape: Shape) -> Any:
    """Return the JSON schema of a shape; bytes, which JSON has none for, are a string in `format` binary."""
    if isinstance(shape, _Plain):
        kinds: list[Any] = [_JSON[kind] for kind in sorted(shape.exact, key=lambda kind: kind.__name__)]
        return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    if not isinstance(shape, _Model):
        return {}
    try:
        return shape.schema()
    except Exception:  # a type with a validator of its own has no JSON schema; its name has to do
        return {"title": repr(shape)}


_packers: Final = _Packers()
