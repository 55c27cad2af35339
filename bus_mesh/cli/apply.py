"""What `busmesh policy apply`, `diff`, `get`, `history` and `rollback` do, in one session with an agent."""

import asyncio
import difflib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bus_mesh.cli.ask import ask
from bus_mesh.cli.operator import Operator, control

if TYPE_CHECKING:
    from bus_mesh_sdk import Mesh

    from bus_mesh.policy.check import Served

STAGE_BYTES: Final = 384 * 1024
"""Bytes of documents that are sent at once; one that is larger goes alone."""
LOOK_AGAIN: Final = 0.05
"""Seconds between two looks at who has applied a bundle."""
HEARD_US: Final = 6_000_000
"""How long a policy agent must be in office to have heard of every agent: they speak at each head, every 5 s."""
_ASKED_AT_ONCE: Final = 64


class Applied(NamedTuple):
    """How far a bundle has come: nodes that applied it, that refused it (and why), and that have not said."""

    number: int
    applied: list[str]
    refused: dict[str, str]
    missing: list[str]
    certain: bool
    """Whether all agents have had the time to be heard, and one at least was."""

    @property
    def whole(self) -> bool:
        """Whether every live agent has it."""
        return self.certain and not self.refused and not self.missing


async def apply(
    mesh: "Mesh", operator: Operator, texts: Mapping[str, str], *, prune: bool = False, dry: bool = False
) -> dict[str, Any]:
    """Stage documents, `kind/name` to YAML, apply them together, and return what the policy agent says of it."""
    from bus_mesh.policy.manifest import hash_of

    contents = {name: text.encode() for name, text in texts.items()}
    held = set((await bundle(mesh))["hashes"].values())
    for part in _parts(data for data in contents.values() if hash_of(data) not in held):
        await operator.command(mesh, "stage", {"documents": part})
    hashes = {name: hash_of(data) for name, data in contents.items()}
    said: dict[str, Any] = await operator.command(mesh, "apply", {"documents": hashes, "prune": prune, "dry": dry})
    return said


def _parts(contents: Iterable[bytes]) -> Iterable[list[bytes]]:
    part: list[bytes] = []
    for data in contents:
        if part and sum(map(len, part)) + len(data) > STAGE_BYTES:
            yield part
            part = []
        part.append(data)
    if part:
        yield part


async def bundle(mesh: "Mesh", number: int = 0) -> dict[str, Any]:
    """Return a bundle's number and its documents' hashes; number 0 is the newest, empty where there is none."""
    from bus_mesh.protocol.errors import NotFound

    try:
        found: dict[str, Any] = await control(mesh, "bundle", {"number": number})
    except NotFound:
        if number:
            raise
        return {"number": 0, "made_us": 0, "hashes": {}}
    return found


async def contents(mesh: "Mesh", hashes: Mapping[str, str]) -> dict[str, str]:
    """Return the texts of documents, `kind/name` to YAML, from their hashes."""
    wanted, found = list(dict.fromkeys(hashes.values())), dict[str, bytes]()
    while missing := [hash for hash in wanted if hash not in found][:_ASKED_AT_ONCE]:
        said = await control(mesh, "get", {"hashes": missing, "offset": 0})
        parts = said["parts"]
        while len(parts[0]) < said["size"]:
            more = await control(mesh, "get", {"hashes": missing[:1], "offset": len(parts[0])})
            parts = [parts[0] + more["parts"][0]]
        found |= dict(zip(missing, parts, strict=False))
    return {name: found[hash].decode() for name, hash in hashes.items()}


async def difference(
    mesh: "Mesh", before: Mapping[str, str], texts: Mapping[str, str], names: Iterable[str]
) -> dict[str, str]:
    """Return unified diffs from documents of the mesh, by their hashes, to these texts: of those that differ."""
    told = list(names)
    old = await contents(mesh, {name: before[name] for name in told if name in before})
    found = {}
    for name in told:
        was, now = old.get(name, "").splitlines(), texts.get(name, "").splitlines()
        lines = difflib.unified_diff(was, now, f"{name} in force", f"{name} given", lineterm="", n=2)
        if text := "\n".join(lines):
            found[name] = text
    return found


def standing(said: Mapping[str, Any], number: int) -> Applied:
    """Return how far a bundle has come, from the policy agent's answer to `acks`."""
    live = [ack for ack in said["acks"] if ack["live"]]
    applied = [ack["node"] for ack in live if ack["applied"] and ack["number"] >= number]
    refused = {ack["node"]: ack["reason"] for ack in live if not ack["applied"] and ack["number"] == number}
    missing = [ack["node"] for ack in live if ack["number"] < number]
    return Applied(number, applied, refused, missing, bool(live) and said["up_us"] >= HEARD_US)


async def wait(mesh: "Mesh", number: int, patience: float, nodes: Collection[str] = ()) -> Applied:
    """Wait until every live agent has applied a bundle, one has refused it, or `patience` seconds are over.

    With `nodes` only until these have applied it.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    while True:
        found = standing(await control(mesh, "acks", {}), number)
        if nodes and set(nodes) <= set(found.applied):
            return found
        if found.whole or (found.refused and found.certain and not found.missing) or loop.time() > end:
            return found
        await asyncio.sleep(LOOK_AGAIN)


async def served(mesh: "Mesh") -> "dict[str, Served]":
    """Return what is served now, by service."""
    from bus_mesh.policy.check import Served

    offered = {row["service"]: row["methods"] for row in await ask(mesh, "services")}
    versions: dict[str, set[str]] = {}
    labels: dict[str, set[str]] = {}
    for row in await ask(mesh, "instances"):
        versions.setdefault(row["service"], set()).add(row["version"])
        labels.setdefault(row["service"], set()).update(f"{name}={value}" for name, value in row["labels"].items())
    return {
        name: Served(
            frozenset(method["name"] for method in methods),
            frozenset(versions.get(name, ())),
            frozenset(labels.get(name, ())),
            frozenset(method["name"] for method in methods if not method["idempotent"]),
        )
        for name, methods in offered.items()
    }


def read(path: Path) -> dict[str, str]:
    """Return the documents of a file or directory; raise PolicyError for what is wrong in them."""
    from bus_mesh.cli.problem import usage
    from bus_mesh.policy_files import read_texts

    texts = read_texts(path)
    if not texts:
        raise usage(f"there is no policy document in {path}", "name a .yaml file of them, or their directory")
    return texts
