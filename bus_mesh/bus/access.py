"""What opens the door of a broker."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to get in at a broker. Nothing set: an open one, on loopback, for development."""

    tls: ssl.SSLContext | None = None
    tls_first: bool = False
    """TLS before the broker says a word (`handshake_first` in its configuration)."""
    user: str | None = None
    password: str | None = None
    jwt: Callable[[], bytes] | None = None
    """Returns the user JWT, anew for each connection."""
    sign: Callable[[str], bytes] | None = None
    """Returns the base64 of the signature of the broker's nonce."""

    def options(self) -> dict[str, Any]:
        """The same in nats-py's words."""
        given = {
            "tls": self.tls,
            "tls_handshake_first": self.tls_first,
            "user": self.user,
            "password": self.password,
            "user_jwt_cb": self.jwt and self._jwt,
            "signature_cb": self.sign,
        }
        return {name: value for name, value in given.items() if value}

    def _jwt(self) -> bytearray:
        assert self.jwt is not None
        return bytearray(self.jwt())  # nats-py wipes what it was given
