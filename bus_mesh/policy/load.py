"""From text to policy documents: everything wrong in a file is told at once, each with its line."""

from collections.abc import Iterator
from typing import Any, Final

from pydantic import ValidationError

from bus_mesh.policy.models import Kind, Mesh, PolicyDocument, Revocation, Service
from bus_mesh.policy.problems import REMOVE, DocumentError, Problem, dotted, explain, model_at, suggest
from bus_mesh.policy.traffic import Document
from bus_mesh.policy.yaml_lines import Read, YamlError, read

__all__ = ["PolicyError", "parse", "parse_revocation", "unenforced"]

_KINDS: Final[dict[str, type[PolicyDocument]]] = {"Service": Service, "Mesh": Mesh, "Revocation": Revocation}


class PolicyError(DocumentError):
    """These policy documents cannot be taken; `problems` says why and where."""


def parse(text: str, source: str, *, whole: bool = False) -> list[PolicyDocument]:
    """Return the documents of a YAML text, in order; `source` is what errors call the file. Raise PolicyError.

    What is known and not enforced by this version is refused too, unless the `whole` of the language is asked for.
    """
    documents: list[PolicyDocument] = []
    problems: list[Problem] = []
    for part in _parts_of(text, source):
        later = [] if whole else _later(part, source)
        taken = _document(part, source)
        if isinstance(taken, Kind):
            documents.append(taken)
            problems += later
        else:
            problems += sorted([*taken, *later], key=lambda problem: problem.line)
    if problems:
        raise PolicyError(problems)
    return documents


def parse_revocation(data: bytes, source: str) -> Revocation:
    """Return the one Revocation that these bytes are; raise PolicyError for anything else."""
    try:
        found = parse(data.decode(), source)
    except UnicodeDecodeError:
        raise PolicyError([Problem(source, 0, "", "is not UTF-8 text")]) from None
    if len(found) != 1 or not isinstance(found[0], Revocation):
        raise PolicyError([Problem(source, 0, "kind", "must hold one document, of kind Revocation")])
    return found[0]


def unenforced(text: str, source: str) -> list[Problem]:
    """Return a problem for each key of a YAML text that this version knows and does not enforce."""
    return [problem for part in _parts_of(text, source) for problem in _later(part, source)]


def _parts_of(text: str, source: str) -> list[Read]:
    try:
        return read(text)
    except YamlError as error:
        raise PolicyError([Problem(source, error.line, "", error.message, error.hint)]) from None


def _document(part: Read, source: str) -> PolicyDocument | list[Problem]:
    value, line = part.value, part.spot.line
    if value is None:  # nothing between two `---`
        return []
    if not isinstance(value, dict):
        return [Problem(source, line, "", "a document must be a mapping, key: value", "it starts with kind: Service")]
    model = _model(value)
    if model is None:
        kind = value.get("kind")
        said = "is missing" if kind is None else f"no document is of kind {str(kind)[:60]!r}"
        return [Problem(source, part.spot.at(["kind"]).line, "kind", said, suggest(str(kind), _KINDS))]
    try:
        document = model.model_validate(value)
    except ValidationError as error:
        return explain(error, model, part.spot, source)
    document._place = f"{source}:{line}"
    return document


def _model(value: object) -> type[PolicyDocument] | None:
    kind = value.get("kind") if isinstance(value, dict) else None
    return _KINDS.get(kind) if isinstance(kind, str) else None


def _later(part: Read, source: str) -> list[Problem]:
    model = _model(part.value)
    if model is None:
        return []
    found = []
    for where, holder, written in _parts(part.value, model, ()):
        for key, what in holder.later(written).items():
            path = (*where, key)
            message = f"{what} documented, but not yet enforced by this version"
            found.append(Problem(source, part.spot.at(path).line, dotted(path), message, REMOVE))
    return sorted(found, key=lambda problem: problem.line)


def _parts(
    value: object, model: type[Document], where: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], type[Document], dict[str, Any]]]:
    """Yield each mapping of a document for which there is a model, with its path and that model."""
    if not isinstance(value, dict):
        return
    yield where, model, value
    for key, inner in value.items():
        if (kind := model_at(model, [key])) is not None and issubclass(kind, Document):
            yield from _parts(inner, kind, (*where, key))
        elif isinstance(inner, dict):
            for name, item in inner.items():
                if (kind := model_at(model, [key, name])) is not None and issubclass(kind, Document):
                    yield from _parts(item, kind, (*where, key, name))
