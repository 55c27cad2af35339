"""A desk with a real store, and an operator who signs."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final, Self

import msgpack

from bus_mesh.control.desk import Asked, Desk
from bus_mesh.control.store import Store
from bus_mesh.identity import document
from bus_mesh.identity.certificate import May, Role, certify_operator, delegate
from bus_mesh.identity.command import sign_command
from bus_mesh.identity.keys import NodeKey
from bus_mesh.policy.load import parse
from bus_mesh.policy.manifest import hash_of

NOW_US: Final = 1_780_000_000_000_000
DESK_KEY: Final = b"the desk"
TIMES: Final = {"not_before_us": NOW_US - 60_000_000, "not_after_us": NOW_US + 86_400_000_000}


def service(name: str, more: str = "") -> bytes:
    return f"kind: Service\nname: {name}\n{more}\n".encode()


class Desks:
    """One desk, asked as agents and operators do."""

    def __init__(self, folder: Path) -> None:
        self.now_us = NOW_US
        self.targets = (DESK_KEY,)
        self.ages_us: dict[str, int] = {}
        self.trouble = ""
        self.root, self.issuer, self.operator = (
            NodeKey.generate(lambda size, n=n: bytes([n]) * size) for n in (1, 2, 3)
        )
        granted = delegate(self.root, "demo", Role.OPERATOR, self.operator.public, term=1, name="ops", **TIMES)
        self.chain = document.pack_row((granted,))
        self.delegation = delegate(self.root, "demo", Role.ISSUER, self.issuer.public, term=1, **TIMES)
        self.requests = count(1)
        self._store = Store(folder / "store.sqlite")
        self.desk = Desk(self._store, "demo", self.root.public)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_store()

    def close_store(self) -> None:
        self._store.__exit__()

    def answer(self, verb: str, payload: bytes) -> Any:
        asked = Asked("node-a", self.now_us, self.targets, None, self.ages_us, self.trouble)
        return msgpack.unpackb(self.desk.answer(verb, payload, asked))

    def ask(self, verb: str, **arguments: Any) -> Any:
        return self.answer(verb, msgpack.packb(arguments))

    def do(self, verb: str, **arguments: Any) -> Any:
        return self.answer(verb, command(self, verb, arguments))

    def apply(self, *contents: bytes, prune: bool = False, dry: bool = False) -> Any:
        named = {f"{read.kind}/{read.name}": data for data in contents for read in parse(data.decode(), "x")}
        return self.apply_as(named, prune=prune, dry=dry)

    def apply_as(self, named: dict[str, bytes], prune: bool = False, dry: bool = False) -> Any:
        self.do("stage", documents=list(named.values()))
        hashes = {name: hash_of(data) for name, data in named.items()}
        return self.do("apply", documents=hashes, prune=prune, dry=dry)


def command(
    desks: Desks,
    verb: str,
    arguments: dict[str, Any],
    *,
    may: Sequence[May] | None = None,
    target: bytes = DESK_KEY,
    ago_us: int = 0,
) -> bytes:
    """Return the payload that carries a command, signed by the first operator or by one who `may` that much."""
    chain = desks.chain
    if may is not None:
        chain = certify_operator(
            desks.issuer,
            desks.delegation,
            mesh="demo",
            name="eve",
            key=desks.operator.public,
            may=may,
            serial="1",
            **TIMES,
        )
    signed = sign_command(
        desks.operator,
        chain,
        mesh="demo",
        verb=verb,
        arguments=msgpack.packb(arguments),
        request=str(next(desks.requests)),
        target=target,
        issued_us=desks.now_us - ago_us,
    )
    packed: bytes = msgpack.packb({"command": signed})
    return packed
