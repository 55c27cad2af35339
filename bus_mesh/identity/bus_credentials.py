"""What a node shows the broker: a user JWT, and the key that it names.

The JWT is public and says what its holder may do; the seed proves who holds it, by signing the broker's nonce. Both are
in one file, in the format that all NATS clients and `nsc` use (`*.creds`).
"""

import json
import re
from base64 import urlsafe_b64decode
from typing import Final, NamedTuple

from bus_mesh.identity.nkeys import BadNkey, Kind, Nkey

__all__ = ["BadCredentials", "Credentials"]

_FORMAT: Final = """\
-----BEGIN NATS USER JWT-----
{jwt}
------END NATS USER JWT------

************************* IMPORTANT *************************
NKEY Seed printed below can be used to sign and prove identity.
NKEYs are sensitive and should be treated as secrets.

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------

*************************************************************
"""
_PART: Final = re.compile(r"-{3,}BEGIN [^\n-]+-{3,}\s*?\n\s*([A-Za-z0-9_.=-]+?)\s*\n-{3,}END [^\n-]+-{3,}")


class BadCredentials(ValueError):
    """Text that is no file of credentials; the message says what it lacks, and repeats none of it."""


class Credentials(NamedTuple):
    """A user JWT and the key of that user."""

    jwt: str
    key: Nkey

    def __repr__(self) -> str:
        return f"Credentials({self.key.public})"

    @classmethod
    def parse(cls, text: str) -> "Credentials":
        """Return the credentials in the text of a `.creds` file; raise BadCredentials."""
        parts: list[str] = _PART.findall(text)
        if len(parts) != 2:
            raise BadCredentials(
                f"it holds {len(parts)} of the two parts of a credentials file, a user JWT and a seed: copy all of it"
            )
        try:
            return cls(parts[0], Nkey.from_seed(parts[1], Kind.USER))
        except BadNkey as error:
            raise BadCredentials(str(error)) from None

    @property
    def ends_us(self) -> int:
        """Microseconds since 1970 at which the JWT ends, as it says itself; 0 for never, or one that cannot be read."""
        part = self.jwt.split(".")[1:2]
        try:
            said = json.loads(urlsafe_b64decode(part[0] + "=" * (-len(part[0]) % 4)))["exp"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return 0
        return said * 1_000_000 if type(said) is int else 0

    def text(self) -> str:
        """Return the text of the file. It holds the private key: mode 0600, never into logs."""
        return _FORMAT.format(jwt=self.jwt, seed=self.key.seed)

    def sign(self, data: bytes) -> bytes:
        """Return the signature of the broker's nonce."""
        return self.key.sign(data)
