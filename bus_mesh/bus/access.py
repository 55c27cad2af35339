"""What opens the door of a broker."""

import base64
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class Shown(Protocol):
    """What a user of the broker shows: a JWT, and signatures that prove whose it is."""

    @property
    def jwt(self) -> str:
        """The user JWT."""

    def sign(self, data: bytes) -> bytes:
        """Return the signature of the broker's nonce."""


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

    @classmethod
    def with_user(
        cls, read: Callable[[], Shown] | None, *, tls: ssl.SSLContext | None = None, tls_first: bool = False
    ) -> "Access":
        """Show what `read` returns, asked anew for each connection: a renewed user is taken up at the next one."""
        if read is None:
            return cls(tls=tls, tls_first=tls_first)
        return cls(
            tls=tls,
            tls_first=tls_first,
            jwt=lambda: read().jwt.encode(),
            sign=lambda nonce: base64.b64encode(read().sign(nonce.encode())),
        )

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


def trusting(ca: str | None) -> ssl.SSLContext:
    """Return TLS 1.3 that trusts the authorities in this PEM text and no others; the system's, when there is none.

    Raises ValueError when the text holds no certificate.
    """
    if ca == "":  # which would count as none
        raise ValueError("no certificate in PEM format (it is empty)")
    try:
        context = ssl.create_default_context(cadata=ca)
    except ssl.SSLError as error:
        raise ValueError(f"no certificate in PEM format ({error.reason})") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
