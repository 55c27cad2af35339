"""The NATS side of a mesh's home: the keys that say who may use the broker, and what each node was given.

    <home>/nats/operator.seed           <home>/nats/operator_signing.seed
    <home>/nats/system.seed             <home>/nats/account.seed     <home>/nats/account_signing.seed
    <home>/nats/ca.key  ca.pem          whom clients trust for the bus
    <home>/nats/users/NODE              the public keys of a node's users, one a line: whom to revoke
    <home>/nats/address                 where clients connect, as `nats config` was told last
    <home>/nats/account.jwt             the account's token, with who was revoked; replaced whole

Seeds and ca.key are 0600 and never overwritten: with another key every node would have to be admitted anew.
"""

import datetime
import secrets
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

from bus_mesh import clock
from bus_mesh.cli.home import NODE_US, MeshHome, private_folder, replace, write_new
from bus_mesh.cli.problem import Problem
from bus_mesh.control import permissions
from bus_mesh.control.nats_authority import KEYS, Authority
from bus_mesh.control.nats_config import CERTIFICATE, CONFIGURATION, KEY, ServerSettings, server_config
from bus_mesh.control.nats_jwt import BadToken
from bus_mesh.control.nats_tls import Ca, Pair
from bus_mesh.control.permissions import Permissions
from bus_mesh.identity.bus_credentials import BadCredentials, Credentials
from bus_mesh.identity.nkeys import BadNkey, Kind, Nkey
from bus_mesh.protocol import names

CREDENTIALS: Final = "bus.creds"
CA_FILE: Final = "ca.pem"
USER_SECONDS: Final = NODE_US // 1_000_000
"""How long a node's user is good for: as long as its certificate."""


class NatsHome:
    """The keys of one mesh's broker in one directory."""

    def __init__(self, home: MeshHome) -> None:
        self.home = home
        self.path = home.path / "nats"

    def __repr__(self) -> str:
        return f"NatsHome({self.path}, {'made' if self.exists else 'empty'})"

    @property
    def exists(self) -> bool:
        """Whether `make` has been here, to its end."""
        return (self.path / "account.jwt").exists()

    def make(self) -> None:
        """Make what is missing, and leave what is there; raise Problem where the home is none."""
        mesh = self.home.mesh  # before anything is written
        private_folder(self.path)
        private_folder(self.path / "users")
        for name, kind in KEYS.items():
            if not (self.path / f"{name}.seed").exists():
                seed = Nkey.generate(kind, secrets.token_bytes).seed
                write_new(self.path / f"{name}.seed", f"{seed}\n".encode(), private=True)
        if not (self.path / CA_FILE).exists():
            ca = Ca.generate(mesh, now())
            # The certificate last: a key without one is of a making that was cut short, and signed nothing.
            (self.path / "ca.key").unlink(missing_ok=True)
            write_new(self.path / "ca.key", ca.pair.key, private=True)
            write_new(self.path / CA_FILE, ca.pair.certificate)
        if not self.exists:
            # Last, so that a home without it is one whose making was cut short.
            write_new(self.path / "account.jwt", f"{self.authority.account_token(seconds())}\n".encode())

    @cached_property
    def authority(self) -> Authority:
        """The keys; raise Problem for one that is missing or damaged."""
        return Authority(mesh=self.home.mesh, **{name: self._key(name, kind) for name, kind in KEYS.items()})

    @cached_property
    def ca(self) -> Ca:
        """The authority for the broker's certificates."""
        try:
            return Ca(Pair(self._read(CA_FILE), self._read("ca.key")))
        except ValueError as error:
            raise _damaged(self.path / "ca.key", str(error)) from None

    @property
    def account_token(self) -> str:
        """The token of the mesh's account, as it was pushed last."""
        return self._read("account.jwt").decode().strip()

    @property
    def accounts(self) -> dict[str, str]:
        """What a server is given to begin with: tokens by the public keys of their accounts."""
        token = self.authority.system_token(seconds())
        return {self.authority.system.public: token, self.authority.account.public: self.account_token}

    def write_server(self, folder: Path, hosts: Sequence[str], settings: ServerSettings) -> Path:
        """Write what a server needs into its folder, and return its configuration; raise BadHost for a wrong name.

        Its certificate, for `hosts`, is new each time; all keys that others rely on stay.
        """
        text = server_config(self.authority, self.accounts, seconds(), settings)
        certificate = self.ca.server(hosts, now())
        private_folder(folder)
        # The configuration first: it marks the folder as ours, also where writing is cut short after it.
        replace(folder / CONFIGURATION, text.encode())
        replace(folder / CERTIFICATE, certificate.certificate)
        replace(folder / KEY, certificate.key, private=True)
        replace(folder / CA_FILE, self.ca.pair.certificate)
        return folder / CONFIGURATION

    @property
    def address(self) -> str:
        """Where clients connect."""
        file = self.path / "address"
        return file.read_text().strip() if file.exists() else "tls://127.0.0.1:4222"

    def note_address(self, url: str) -> None:
        """Keep where clients connect, for the node.yaml of nodes to come."""
        replace(self.path / "address", f"{url}\n".encode())

    def user(
        self, name: str, serve: Iterable[str] = (), call_as: Iterable[str] = (), *, policy_agent: bool = False
    ) -> Credentials:
        """Return a new user for a node, or for a policy agent, good for as long as its certificate.

        Raises InvalidName, and Problem for keys that are damaged.
        """
        return self._new_user(name, self._allowed(name, serve, call_as, policy_agent))

    def client(self, name: str, file: Path, *, call: Iterable[str], ask: Iterable[str], answer: Iterable[str]) -> None:
        """Write a new user for a plain client of NATS into `file`.

        Raises InvalidName, ValueError for a pattern that it may not have, and Problem for damaged keys.
        """
        user = self._new_user(name, permissions.client(self.home.mesh, name, call, ask, answer))
        with (self.path / "users" / f"client-{name}").open("a") as users:
            users.write(f"{user.key.public}\n")
        write_new(file, user.text().encode(), private=True)

    def renew(
        self, name: str, serve: Iterable[str], call_as: Iterable[str], identity: Path, *, policy_agent: bool = False
    ) -> bool:
        """Give a node a user if it has none, or one that ends soon or may something else; True if it did.

        Soon is: less than a third of its life is left. The user before it is void for servers that are started later.
        """
        allowed, held = self._allowed(name, serve, call_as, policy_agent), _held(identity)
        signer, good_until = self.authority.signer, seconds() + USER_SECONDS // 3
        if held is not None and signer.holds(name, held, allowed, good_until) and self._trusted_by(identity):
            return False
        self.equip(name, self._new_user(name, allowed), identity)
        if held is not None:  # last: until the new one is written, the node has the old one
            self.revoke([held.key.public])
        return True

    def _allowed(self, name: str, serve: Iterable[str], call_as: Iterable[str], policy_agent: bool) -> Permissions:
        mesh = self.home.mesh
        return permissions.policy_agent(mesh, name) if policy_agent else permissions.node(mesh, name, serve, call_as)

    def _new_user(self, name: str, allowed: Permissions) -> Credentials:
        return self.authority.signer.user(name, allowed, now=seconds(), life=USER_SECONDS, entropy=secrets.token_bytes)

    def _trusted_by(self, identity: Path) -> bool:
        file = identity / CA_FILE
        return file.exists() and file.read_bytes() == self._read(CA_FILE)

    def equip(self, name: str, user: Credentials, identity: Path) -> None:
        """Write a user, and the CA, into the identity of a node; an older file of either is replaced whole."""
        # Noted before it is handed out: whoever may come in can be revoked.
        with (self.path / "users" / names.node_name(name)).open("a") as users:
            users.write(f"{user.key.public}\n")
        replace(identity / CA_FILE, self._read(CA_FILE))
        replace(identity / CREDENTIALS, user.text().encode(), private=True)

    def users(self, node: str) -> list[str]:
        """Return the public keys of all users that a node was ever given."""
        file = self.path / "users" / names.node_name(node)
        return file.read_text().split() if file.exists() else []

    def revoke(self, users: Iterable[str]) -> str:
        """Note that all that these users hold is void, and return the account's token, to be pushed to the servers."""
        try:
            token = self.authority.signer.revoked(self.account_token, users, seconds())
        except (BadToken, BadNkey) as error:
            raise _damaged(self.path / "account.jwt", str(error)) from None
        replace(self.path / "account.jwt", f"{token}\n".encode())
        return token

    def _key(self, name: str, kind: Kind) -> Nkey:
        try:
            return Nkey.from_seed(self._read(f"{name}.seed").decode(errors="replace"), kind)
        except BadNkey as error:
            raise _damaged(self.path / f"{name}.seed", str(error)) from None

    def _read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            raise Problem(
                f"{self.path} lacks {name}",
                "the keys of the broker are made once, all of them together",
                f"restore it, or make all of them: busmesh nats config --home {self.home.path} --out DIR",
            ) from None


def _held(identity: Path) -> Credentials | None:
    """Return the user that a node has; None for none, and for a file that is damaged."""
    try:
        return Credentials.parse((identity / CREDENTIALS).read_text(errors="replace"))
    except (FileNotFoundError, BadCredentials):
        return None


def seconds() -> int:
    """Seconds since 1970."""
    return clock.wall_us() // 1_000_000


def now() -> datetime.datetime:
    """The same as a date."""
    return datetime.datetime.fromtimestamp(seconds(), datetime.UTC)


def _damaged(path: Path, why: str) -> Problem:
    return Problem(f"{path} is damaged", why, "restore it from where it was kept; it is never made anew in place")
