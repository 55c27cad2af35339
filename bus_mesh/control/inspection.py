"""Whether documents make a bundle: read and checked as every agent will, before they get a number."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from bus_mesh.policy.bundle import PolicySet
from bus_mesh.policy.check import check
from bus_mesh.policy.load import PolicyError, parse
from bus_mesh.policy.manifest import hash_of
from bus_mesh.policy.models import PolicyDocument
from bus_mesh.protocol.errors import InvalidArgument, MeshError, Ran

__all__ = ["Inspection", "PolicyRefused", "warnings"]

_PROBLEMS: Final = 20


class PolicyRefused(InvalidArgument, reason="POLICY_REFUSED"):
    """These documents are wrong, or agents of this version cannot enforce them."""


class Inspection:
    """Reads documents, and remembers those of the last bundle: what did not change is not read again."""

    def __init__(self) -> None:
        self._parsed: dict[str, PolicyDocument] = {}

    def documents(self, texts: Mapping[str, bytes]) -> list[PolicyDocument]:
        """Return the documents of a bundle, `kind/name` to bytes; raise InvalidArgument saying why they make none."""
        parsed: dict[str, PolicyDocument] = {}
        problems: list[str] = []
        for name, data in texts.items():
            hash = hash_of(data)
            try:
                parsed[hash] = self._parsed.get(hash) or _document(name, data)
            except PolicyError as error:
                problems += map(str, error.problems)
        found = list(parsed.values())
        if not problems:
            try:
                PolicySet.of(found)
            except PolicyError as error:
                problems += map(str, error.problems)
        if problems:
            raise _refused(problems)
        self._parsed = parsed
        return found


def warnings(documents: Iterable[PolicyDocument], now_us: int) -> list[str]:
    """Return what stands out in a bundle that is taken all the same."""
    found = check(documents, datetime.fromtimestamp(now_us / 1e6, UTC))
    return [str(finding) for finding in found][:_PROBLEMS]


def _document(name: str, data: bytes) -> PolicyDocument:
    try:
        found = parse(data.decode(), name)
    except UnicodeDecodeError:
        raise InvalidArgument(f"{name} is not UTF-8 text", ran=Ran.NO) from None
    if [f"{document.kind}/{document.name}" for document in found] != [name]:
        text = f"{name} holds {len(found)} documents, and not just the one of that kind and name"
        raise InvalidArgument(text, ran=Ran.NO)
    return found[0]


def _refused(problems: list[str]) -> MeshError:
    more = f"\n… and {len(problems) - _PROBLEMS} more" if len(problems) > _PROBLEMS else ""
    return PolicyRefused("\n".join(problems[:_PROBLEMS]) + more, ran=Ran.NO)
