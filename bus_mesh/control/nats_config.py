"""The configuration of a nats-server in operator mode, as text.

All of it is public: the tokens say who is trusted, and the only secret is the key of the server's TLS certificate, in
a file beside. Paths are relative to the directory that the server is started in, so the folder can be copied anywhere.
In operator mode there is no anonymous user: who shows no token of an account is refused.

Pure.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from bus_mesh.control.nats_authority import Authority

__all__ = ["CERTIFICATE", "CONFIGURATION", "KEY", "ServerSettings", "server_config", "written_for"]

CONFIGURATION: Final = "nats-server.conf"
CERTIFICATE: Final = "server.crt"
KEY: Final = "server.key"
_HEAD: Final = "# Written by busmesh for the mesh "
_TEXT: Final = """\
{head}
#   cd HERE && nats-server -c {file}
# Writing it anew keeps every key; changes by hand are lost then.
host: "{host}"
port: {port}
{monitor}

# Who may connect is said by tokens: the operator signs accounts, an account signs its users.
operator: "{operator}"
# The account in which servers take in newer tokens, such as one that revokes a user.
system_account: "{system}"
# Tokens of accounts are kept here, and what is pushed is passed on to the other servers of a cluster.
resolver: {{
  type: full
  dir: "accounts"
  allow_delete: false
  interval: "2m"
}}
# What the server knows before anything was pushed; a newer one in the directory above wins.
resolver_preload: {{
{preload}
}}

tls {{
  cert_file: "{certificate}"
  key_file: "{key}"
  min_version: "1.3"
  # TLS before the server says a word: to a stranger it does not even show its version.
  handshake_first: true
  timeout: 5
}}

max_payload: 1MB
# A client that does not read is cut off after this long, so it cannot hold up the others.
write_deadline: "2s"
# A client that has vanished is noticed after three times this long.
ping_interval: "5s"
ping_max: 2
# How long clients have to move when the server is told to go (SIGUSR2).
lame_duck_duration: "30s"
"""


class ServerSettings(NamedTuple):
    """Where a server listens: for clients, and for `monitor` (statistics; None is off). Port -1 takes a free one."""

    host: str
    port: int
    monitor: tuple[str, int] | None = None


def server_config(authority: Authority, accounts: Mapping[str, str], now: int, settings: ServerSettings) -> str:
    """Return the text of a server's configuration; `accounts` are tokens by the public keys of their accounts."""
    monitor = "# No port for statistics." if settings.monitor is None else 'http: "{}:{}"'.format(*settings.monitor)
    return _TEXT.format(
        head=_head(authority.mesh),
        file=CONFIGURATION,
        host=settings.host,
        port=settings.port,
        monitor=monitor,
        operator=authority.operator_token(now),
        system=authority.system.public,
        preload="\n".join(f'  {account}: "{token}"' for account, token in accounts.items()),
        certificate=CERTIFICATE,
        key=KEY,
    )


def written_for(text: str, mesh: str) -> bool:
    """Tell whether this is a configuration that was written here for this mesh, and may be written anew."""
    return text.startswith(_head(mesh) + "\n")


def _head(mesh: str) -> str:
    return f"{_HEAD}{mesh}."
