"""What is wrong with a document somebody wrote: file, line, path, what, and what to write instead.

Pure. The words of pydantic and of YAML end here; people see the words of the documents.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Final, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from bus_mesh.policy.yaml_lines import Spot

__all__ = ["REMOVE", "DocumentError", "Problem", "dotted", "explain", "model_at", "refuse", "suggest"]

REMOVE: Final = "remove it: what is accepted here is kept"
MOST_PROBLEMS: Final = 100
"""Problems told of at once; who has more is helped by the first hundred."""

_CREDENTIALS: Final = re.compile(r"//[^/@\s]*@")
_QUOTED: Final = re.compile(r"'([^']*)'")
_MARKS: Final = frozenset(("[key]", "[on]", "[off]"))
_SHOULD: Final = re.compile(r"^\w+ should")
_KINDS: Final = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
}
_WANTED: Final = {
    "string_type": ("must be text", "quote it"),
    "model_type": ("must be a mapping, key: value", ""),
    "model_attributes_type": ("must be a mapping, key: value", ""),
    "dict_type": ("must be a mapping, key: value", ""),
    "mapping_type": ("must be a mapping, key: value", ""),
    "tuple_type": ("must be a list", "write [a, b]"),
    "list_type": ("must be a list", "write [a, b]"),
    "path_type": ("must be a path", ""),
    "too_short": ("must not be empty", ""),
    "bool_type": ("must be true or false", ""),
    "bool_parsing": ("must be true or false", ""),
    "int_type": ("must be a whole number", ""),
    "int_parsing": ("must be a whole number", ""),
    "int_from_float": ("must be a whole number", ""),
}


class Problem(NamedTuple):
    """One thing wrong: in which file, on which line (from 1; 0 = the whole file), at which key, and what helps."""

    source: str
    line: int
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.line else self.source
        said = f"{self.path}: {self.message}" if self.path else self.message
        return f"{place}: {said}" + (f" ({self.hint})" if self.hint else "")


class DocumentError(ValueError):
    """A document cannot be taken; `problems` holds all that was found, in the order of the lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        shown = [str(problem) for problem in self.problems[:MOST_PROBLEMS]]
        if len(self.problems) > MOST_PROBLEMS:
            shown.append(f"and {len(self.problems) - MOST_PROBLEMS} more")
        super().__init__("\n".join(shown))


def refuse(message: str, hint: str = "", at: Sequence[str | int] = ()) -> PydanticCustomError:
    """Return what a validator raises to be quoted word for word; `at` leads on from its own key to the wrong one."""
    return PydanticCustomError("refused", "{message}", {"message": message, "hint": hint, "at": tuple(at)})


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `did you mean X?` for the nearest known word, else the list of them."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(names)}"


def explain(error: ValidationError, model: type[BaseModel], spot: Spot, source: str) -> list[Problem]:
    """Return pydantic's errors about `model` as problems, with the lines that `spot` remembers."""
    found = []
    for detail in error.errors(include_url=False):
        context: Mapping[str, Any] = detail.get("ctx") or {}
        # Pydantic marks an error in a key, not a value, by a last step "[key]"; our tags of alternatives look like it.
        where = [step for step in (*detail["loc"], *context.get("at", ())) if step not in _MARKS]
        message, hint = _say(detail, context, model, where)
        found.append(Problem(source, spot.at(where).line, dotted(where), message, hint))
    return sorted(found, key=lambda problem: problem.line)


def _say(
    detail: ErrorDetails, context: Mapping[str, Any], model: type[BaseModel], where: Sequence[str | int]
) -> tuple[str, str]:
    kind, value = detail["type"], detail["input"]
    if kind == "refused":
        return context["message"], context["hint"]
    if kind == "missing":
        return "is missing", ""
    if kind == "extra_forbidden":
        return _unknown(model, where)
    if kind in ("literal_error", "enum"):
        expected = str(context["expected"])
        return f"must be {expected}, not {_shown(value)}", suggest(str(value), _QUOTED.findall(expected))
    if kind in _WANTED:
        wanted, hint = _WANTED[kind]
        return (wanted if kind == "too_short" else f"{wanted}, not {_KINDS.get(type(value), 'empty')}"), hint
    return _SHOULD.sub("must", detail["msg"]), ""


def _unknown(model: type[BaseModel], where: Sequence[str | int]) -> tuple[str, str]:
    key, holder = str(where[-1]), model_at(model, where[:-1])
    later: Iterable[str] = getattr(holder, "LATER", ())
    if key in later:
        return "is documented, but not yet enforced by this version", REMOVE
    fields = () if holder is None else holder.model_fields.items()
    return "unknown key", suggest(key, [field.alias or name for name, field in fields])


def model_at(model: type[BaseModel], where: Iterable[str | int]) -> type[BaseModel] | None:
    """Follow the steps from a model through its fields, lists and mappings to the model that stands there."""
    here: Any = model
    for step in where:
        if _is_model(here):
            fields = {field.alias or name: field.annotation for name, field in here.model_fields.items()}
            here = _bare(fields.get(str(step)))
        else:
            inner = [argument for argument in get_args(here) if argument is not Ellipsis]
            here = _bare(inner[-1]) if inner else None
    return here if _is_model(here) else None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel)


def _bare(annotation: Any) -> Any:
    """Return the annotation without `Annotated` and without `| None`."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return _bare(next(argument for argument in get_args(annotation) if argument is not NoneType))
    return annotation


def _shown(value: object) -> str:
    text = _CREDENTIALS.sub("//…@", repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def dotted(where: Iterable[str | int]) -> str:
    """Return the steps of a path as people write them: `access.allow[0].from`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in where)
    return text.removeprefix(".")
