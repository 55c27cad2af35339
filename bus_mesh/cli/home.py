"""The home of a mesh: its keys and delegations on disk, and the identities made with them.

    <home>/mesh                  the mesh's name
    <home>/root.key  root.pub    who everyone trusts; keep root.key offline afterwards
    <home>/issuer.key            certifies nodes          <home>/issuer.delegation    root's word for it
    <home>/policy.key            signs policy             <home>/policy.delegation
    <home>/operator.key          gives commands           <home>/operator.delegation

A node's identity is a folder of three files: node.key, node.chain (its certificate and the issuer's delegation) and
root.pub. Private keys are 32 raw bytes, mode 0600, in folders of mode 0700; nothing here is ever overwritten in place.
"""

import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bus_mesh import clock
from bus_mesh.cli.problem import Problem, usage
from bus_mesh.identity.certificate import (
    May,
    NodeCertificate,
    Role,
    certify_node,
    certify_operator,
    delegate,
    verify_chain,
)
from bus_mesh.identity.keys import NodeKey
from bus_mesh.identity.refusal import Untrusted
from bus_mesh.protocol import names

DAY_US: Final = 86_400_000_000
DELEGATION_US: Final = 365 * DAY_US
NODE_US: Final = 30 * DAY_US
OPERATOR_US: Final = 90 * DAY_US
BACKDATED_US: Final = 60_000_000
"""Certificates start a minute ago: the clock of whoever reads one may be behind."""
_DELEGATED: Final = {"issuer": Role.ISSUER, "policy": Role.POLICY, "operator": Role.OPERATOR}


class MeshHome:
    """The keys of one mesh in one directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"MeshHome({self.path}, {self.mesh if self.exists else 'empty'})"

    @property
    def exists(self) -> bool:
        """Whether `init` has been here."""
        return (self.path / "mesh").exists()

    @property
    def mesh(self) -> str:
        """The name of the mesh."""
        return self._read("mesh").decode().strip()

    def init(self, mesh: str) -> None:
        """Make root, issuer, policy signer and first operator; raise Problem where a mesh or its keys are already."""
        names.mesh_name(mesh)
        taken = [
            name
            for name in ("mesh", "root.key", *(f"{role}.key" for role in _DELEGATED))
            if (self.path / name).exists()
        ]
        if taken:
            raise Problem(
                f"{self.path} already holds a mesh: there is a file {taken[0]}",
                "keys are never overwritten: every node of that mesh would have to be admitted anew",
                "busmesh init --home ANOTHER/DIRECTORY, or move this one away",
            )
        private_folder(self.path)
        root, now_us = NodeKey.generate(secrets.token_bytes), clock.wall_us()
        write_new(self.path / "root.key", root.raw, private=True)
        write_new(self.path / "root.pub", root.public)
        for name, role in _DELEGATED.items():
            self._delegate(root, mesh, name, role, now_us)
        # Last, so that a home without it is one whose making was cut short.
        write_new(self.path / "mesh", f"{mesh}\n".encode())

    def _delegate(self, root: NodeKey, mesh: str, name: str, role: Role, now_us: int) -> None:
        key = NodeKey.generate(secrets.token_bytes)
        term = delegate(
            root,
            mesh,
            role,
            key.public,
            term=1,
            not_before_us=now_us - BACKDATED_US,
            not_after_us=now_us + DELEGATION_US,
            name=name,
        )
        write_new(self.path / f"{name}.key", key.raw, private=True)
        write_new(self.path / f"{name}.delegation", term)

    def certify(self, node: str, key: NodeKey, serve: Iterable[str], call_as: Iterable[str]) -> bytes:
        """Return the chain of a node that may host `serve` and speak for `call_as`, good for 30 days."""
        now_us = clock.wall_us()
        return certify_node(
            NodeKey.from_bytes(self._read("issuer.key")),
            self._read("issuer.delegation"),
            mesh=self.mesh,
            node=names.node_name(node),
            key=key.public,
            serve=frozenset(map(names.service_name, serve)),
            call_as=frozenset(map(names.service_name, call_as)),
            not_before_us=now_us - BACKDATED_US,
            not_after_us=now_us + NODE_US,
            serial=secrets.token_hex(8),
        )

    def admit(self, node: str, serve: Iterable[str], call_as: Iterable[str], identity: Path) -> None:
        """Write the identity of a new node into the folder `identity`; raise Problem where one is already."""
        if (identity / "node.key").exists():
            raise Problem(
                f"{identity} already holds the identity of a node",
                "its key is never overwritten",
                f"busmesh node add {node} --out ANOTHER/DIRECTORY, or remove this one first",
            )
        key = NodeKey.generate(secrets.token_bytes)
        chain, root = self.certify(node, key, serve, call_as), self._read("root.pub")
        private_folder(identity)
        write_new(identity / "root.pub", root)
        write_new(identity / "node.chain", chain)
        write_new(identity / "node.key", key.raw, private=True)

    def appoint(self, name: str, may: Iterable[str], folder: Path) -> None:
        """Write key and chain of a new operator into `folder`, good for 90 days; raise Problem for what cannot be."""
        granted = list(may)
        unknown = [word for word in granted if word not in list(May)]
        if unknown or not granted:
            known = ", ".join(May)
            raise usage(f"an operator may not {', '.join(unknown) or 'nothing at all'}", f"there is {known}")
        if (folder / f"{name}.key").exists() or name in _DELEGATED:
            raise Problem(
                f"{folder} already holds the keys of {name}", "keys are never overwritten", "name another one"
            )
        key, now_us = NodeKey.generate(secrets.token_bytes), clock.wall_us()
        chain = certify_operator(
            NodeKey.from_bytes(self._read("issuer.key")),
            self._read("issuer.delegation"),
            mesh=self.mesh,
            name=name,
            key=key.public,
            may=map(May, granted),
            not_before_us=now_us - BACKDATED_US,
            not_after_us=now_us + OPERATOR_US,
            serial=secrets.token_hex(8),
        )
        private_folder(folder)
        write_new(folder / f"{name}.chain", chain)
        write_new(folder / f"{name}.key", key.raw, private=True)

    def renew(self, node: str, serve: Iterable[str], call_as: Iterable[str], identity: Path) -> bool:
        """Give a node a new certificate if its own ends soon or grants something else; True if it did.

        Soon is: less than a third of its life is left. The key stays.
        """
        serve, call_as = frozenset(serve), frozenset(call_as)
        held = self._certificate(identity)
        if (
            held is not None
            and (held.node, held.serve, held.call_as) == (node, serve, call_as)
            and not _ends_soon(held)
        ):
            return False
        key = NodeKey.from_bytes((identity / "node.key").read_bytes())
        replace(identity / "node.chain", self.certify(node, key, serve, call_as))
        return True

    def _certificate(self, identity: Path) -> NodeCertificate | None:
        try:
            return verify_chain(
                (identity / "node.chain").read_bytes(), self.mesh, self._read("root.pub"), clock.wall_us()
            )
        except (FileNotFoundError, Untrusted):
            return None

    def _read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            raise Problem(
                f"{self.path} is not the home of a mesh", f"it holds no {name}", f"busmesh init --home {self.path}"
            ) from None


def _ends_soon(certificate: NodeCertificate) -> bool:
    life = certificate.not_after_us - certificate.not_before_us
    return certificate.not_after_us - clock.wall_us() < life // 3


def private_folder(path: Path) -> None:
    """Make a folder that only its owner can open, and the folders above it that are missing."""
    if not path.exists():
        private_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def write_new(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a file that is not there yet: mode 0600 from its first byte when `private`, else 0644."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - of a descriptor; Path cannot
        file.write(data)


def replace(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a file so that a reader sees the old one or the new one, whole; mode 0600 when `private`, else 0644."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    write_new(fresh, data, private=private)
    fresh.replace(path)
