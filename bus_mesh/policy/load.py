"""From text to policy documents: everything wrong in a file is told at once, each with its line."""

from typing import Final

from pydantic import ValidationError

from bus_mesh.policy.models import Kind, Mesh, Service
from bus_mesh.policy.problems import DocumentError, Problem, explain, suggest
from bus_mesh.policy.yaml_lines import Read, YamlError, read

__all__ = ["PolicyError", "parse"]

_KINDS: Final[dict[str, type[Service] | type[Mesh]]] = {"Service": Service, "Mesh": Mesh}


class PolicyError(DocumentError):
    """These policy documents cannot be taken; `problems` says why and where."""


def parse(text: str, source: str) -> list[Service | Mesh]:
    """Return the documents of a YAML text, in order; `source` is what errors call the file. Raise PolicyError."""
    try:
        parts = read(text)
    except YamlError as error:
        raise PolicyError([Problem(source, error.line, "", error.message, error.hint)]) from None
    documents: list[Service | Mesh] = []
    problems: list[Problem] = []
    for part in parts:
        taken = _document(part, source)
        if isinstance(taken, Kind):
            documents.append(taken)
        else:
            problems += taken
    if problems:
        raise PolicyError(problems)
    return documents


def _document(part: Read, source: str) -> Service | Mesh | list[Problem]:
    value, line = part.value, part.spot.line
    if value is None:  # nothing between two `---`
        return []
    if not isinstance(value, dict):
        return [Problem(source, line, "", "a document must be a mapping, key: value", "it starts with kind: Service")]
    kind = value.get("kind")
    model = _KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        said = "is missing" if kind is None else f"no document is of kind {str(kind)[:60]!r}"
        return [Problem(source, part.spot.at(["kind"]).line, "kind", said, suggest(str(kind), _KINDS))]
    try:
        document = model.model_validate(value)
    except ValidationError as error:
        return explain(error, model, part.spot, source)
    document._place = f"{source}:{line}"
    return document
