"""How an agent gets in at the broker: what its settings say under `bus`, as an Access.

Files are read once at the start, so that what is wrong with them is said then; credentials also for every connection,
so that renewed ones need no restart.
"""

import ssl
from pathlib import Path

from bus_mesh.bus.access import Access, trusting
from bus_mesh.config import Bus, ConfigError
from bus_mesh.identity.bus_credentials import BadCredentials, Credentials
from bus_mesh.policy.problems import Problem


def access_of(bus: Bus) -> Access:
    """Return the way in; raise ConfigError for credentials or a CA that cannot be read or are none."""
    file, tls = bus.credentials, bus.tls
    if file is not None:
        _credentials(file)
    # An address that says tls:// means it, also where nothing else is said of TLS.
    if tls is None and not any(url.startswith("tls://") for url in bus.url):
        context = None
    else:
        context = trusting(None) if tls is None or tls.ca is None else _trusting(tls.ca)
    read = None if file is None else lambda: _credentials(file)
    return Access.with_user(read, tls=context, tls_first=tls is not None and tls.first)


def user_ends_us(bus: Bus) -> int:
    """Return when its user ends, microseconds since 1970, as its file has it now; 0 for never, or nobody knows."""
    try:
        return 0 if bus.credentials is None else _credentials(bus.credentials).ends_us
    except ConfigError:
        return 0


def _credentials(file: Path) -> Credentials:
    try:
        return Credentials.parse(_text(file, "give this node credentials: `busmesh node add`, or correct the path"))
    except BadCredentials as error:
        raise _wrong(file, str(error)) from None


def _trusting(file: Path) -> ssl.SSLContext:
    text = _text(file, "copy the CA of the bus there, or correct the path")
    try:
        return trusting(text)
    except ValueError as error:
        raise _wrong(file, f"{error}: copy the CA of the bus there") from None


def _text(file: Path, hint: str) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise _wrong(file, f"cannot be read: {error.strerror}", hint) from None
    except UnicodeDecodeError:
        raise _wrong(file, "is not UTF-8 text", hint) from None


def _wrong(file: Path, message: str, hint: str = "") -> ConfigError:
    return ConfigError([Problem(str(file), 0, "", message, hint)])
