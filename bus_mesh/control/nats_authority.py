"""Who may use the broker: the keys that say so, and what they say.

    operator ── operator signing key ──┬── system account: hands servers newer tokens, nothing else
                                       └── mesh account ── mesh signing key ──┬── a user for each node
                                                                              └── policy agents, joiners
Servers trust the operator's key, which is in their configuration. Everyday work takes the mesh's signing key to let
users in (`Users`), and to put them out the operator's signing key and the system account's as well (`Signer`); the
others can be kept elsewhere.

Pure: times (seconds since 1970) and entropy are handed in.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from bus_mesh.control import nats_jwt, permissions
from bus_mesh.control.permissions import Permissions
from bus_mesh.identity.bus_credentials import Credentials
from bus_mesh.identity.nkeys import Kind, Nkey

__all__ = ["KEYS", "PUSH_SECONDS", "Authority", "Signer", "Users"]

KEYS: Final[Mapping[str, Kind]] = {
    "operator": Kind.OPERATOR,
    "operator_signing": Kind.OPERATOR,
    "system": Kind.ACCOUNT,
    "account": Kind.ACCOUNT,
    "account_signing": Kind.ACCOUNT,
}
"""The keys of an Authority, by the names of its fields."""
PUSH_SECONDS: Final = 60
"""How long a user of the system account is good for; pushing takes milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """What it takes to let users in: all that a policy agent needs to admit nodes."""

    account: str
    """The public key of the mesh's account."""
    account_signing: Nkey

    def user(
        self, name: str, allowed: Permissions, *, now: int, life: int, entropy: Callable[[int], bytes]
    ) -> Credentials:
        """Return a new user of the mesh's account, good for `life` seconds."""
        key = Nkey.generate(Kind.USER, entropy)
        return Credentials(self.user_token(name, key.public, allowed, now=now, life=life), key)

    def user_token(self, name: str, user: str, allowed: Permissions, *, now: int, life: int) -> str:
        """Return a token for who has the private half of the public key `user`; raise BadNkey."""
        return nats_jwt.user_token(
            self.account_signing,
            user,
            name=name,
            issued_at=now,
            expires_at=now + life,
            permissions=allowed,
            account=self.account,
        )

    def holds(self, name: str, user: Credentials, allowed: Permissions, until: int) -> bool:
        """Tell whether a user's token is the one it would be given today, and good until then."""
        try:
            claims = nats_jwt.decode(user.jwt, {self.account_signing.public})
        except nats_jwt.BadToken:
            return False
        issued, ends = claims["iat"], claims["exp"]
        # Ed25519 signs the same words the same way each time.
        today = self.user_token(name, user.key.public, allowed, now=issued, life=ends - issued)
        return ends >= until and today == user.jwt


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer(Users):
    """The keys of everyday work: what lets users in, and puts them out."""

    operator_signing: Nkey
    system: Nkey

    def revoked(self, token: str, users: Iterable[str], now: int) -> str:
        """Return the account's token anew, with all that these users hold until now void; raise BadToken or BadNkey."""
        return nats_jwt.revoked(token, self.operator_signing, users, now)

    def pusher(self, *, now: int, entropy: Callable[[int], bytes]) -> Credentials:
        """Return a user of the system account that may hand servers newer tokens, for a minute."""
        key = Nkey.generate(Kind.USER, entropy)
        token = nats_jwt.user_token(
            self.system,
            key.public,
            name="account pusher",
            issued_at=now,
            expires_at=now + PUSH_SECONDS,
            permissions=permissions.account_pusher(permissions.INBOXES),
        )
        return Credentials(token, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """All keys of a mesh's broker, and the tokens that a server is given to begin with."""

    mesh: str
    operator: Nkey
    operator_signing: Nkey
    system: Nkey
    account: Nkey
    account_signing: Nkey

    @classmethod
    def generate(cls, mesh: str, entropy: Callable[[int], bytes]) -> "Authority":
        """Make all five keys from `entropy` (`os.urandom` in service)."""
        return cls(mesh=mesh, **{name: Nkey.generate(kind, entropy) for name, kind in KEYS.items()})

    @property
    def signer(self) -> Signer:
        """The keys that everyday work takes."""
        return Signer(
            account=self.account.public,
            account_signing=self.account_signing,
            operator_signing=self.operator_signing,
            system=self.system,
        )

    def operator_token(self, now: int) -> str:
        """Return what goes into the servers' configuration."""
        return nats_jwt.operator_token(
            self.operator,
            name=f"busmesh {self.mesh}",
            issued_at=now,
            signing_keys=(self.operator_signing.public,),
            system_account=self.system.public,
        )

    def system_token(self, now: int) -> str:
        """Return the token of the system account."""
        return nats_jwt.account_token(self.operator_signing, self.system.public, name="SYS", issued_at=now)

    def account_token(self, now: int) -> str:
        """Return the first token of the mesh's account, with nobody revoked."""
        return nats_jwt.account_token(
            self.operator_signing,
            self.account.public,
            name=f"mesh {self.mesh}",
            issued_at=now,
            signing_keys=(self.account_signing.public,),
        )
