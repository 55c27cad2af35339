"""What things may be called: one strict pattern each, never normalised.

A name becomes a token of a NATS subject, a metric label and a log field, so a dot, a wildcard, a space, a line end or a
look-alike letter in one would change what a message means. Both ends check.
"""

import re
from typing import Final

from bus_mesh.protocol.errors import InvalidName

_DASHED: Final = re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII)
_METHOD: Final = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
_TOKEN: Final = re.compile(r"[a-z0-9-]{1,95}", re.ASCII)
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)

_DASHED_RULE: Final = "a lower-case letter, then up to 62 of a-z 0-9 -"
_METHOD_RULE: Final = "a lower-case letter, then up to 62 of a-z 0-9 _"
_PLAIN_RULE: Final = "1 to 64 of a-z A-Z 0-9 _ -"

MICRO: Final = "micro:"
"""What the name of a plain service of NATS begins with, which is no part of the mesh; its own name follows."""

HEALTH: Final = "_health"
"""How an agent asks an instance whether it is well. No method can be named so: nobody else can ask."""
SCHEMA: Final = "_schema"
"""How an agent asks an instance what one of its methods takes and gives, likewise."""


def is_service(text: str) -> bool:
    """Tell whether `text` may name a service (or an app: apps are services that call)."""
    return _DASHED.fullmatch(text) is not None


def is_method(text: str) -> bool:
    """Tell whether `text` may name a method."""
    return _METHOD.fullmatch(text) is not None


def is_node(text: str) -> bool:
    """Tell whether `text` may name a node."""
    return _DASHED.fullmatch(text) is not None


def is_plain(text: str) -> bool:
    """Tell whether `text` may name a plain service of NATS, `micro:` and its own name (ADR-32)."""
    return text.startswith(MICRO) and is_endpoint(text[len(MICRO) :])


def is_endpoint(text: str) -> bool:
    """Tell whether `text` may name an endpoint of a plain service of NATS."""
    return _PLAIN.fullmatch(text) is not None


def is_call(service: str, method: str) -> bool:
    """Tell whether the two may name what is called: a method of a service, or an endpoint of a plain one."""
    if service.startswith(MICRO):
        return is_plain(service) and is_endpoint(method)
    return is_service(service) and is_method(method)


def is_token(text: str) -> bool:
    """Tell whether `text` may stand for an instance, a boot or a request inside a subject."""
    return _TOKEN.fullmatch(text) is not None


def service_name(text: str) -> str:
    """Return `text`, a valid service name, or raise InvalidName."""
    if not is_service(text):
        raise InvalidName("service", text, _DASHED_RULE)
    return text


def method_name(text: str) -> str:
    """Return `text`, a valid method name, or raise InvalidName."""
    if not is_method(text):
        raise InvalidName("method", text, _METHOD_RULE)
    return text


def callee_name(text: str) -> str:
    """Return `text`, the name of a service or of a plain one, or raise InvalidName."""
    if not text.startswith(MICRO):
        return service_name(text)
    if not is_plain(text):
        raise InvalidName("plain service", text, f"{MICRO}, then {_PLAIN_RULE}")
    return text


def called(service: str, method: str) -> str:
    """Return `service.method` for messages, or raise InvalidName for what `is_call` says no to."""
    if not callee_name(service).startswith(MICRO):
        method_name(method)
    elif not is_endpoint(method):
        raise InvalidName("endpoint", method, _PLAIN_RULE)
    return f"{service}.{method}"


def node_name(text: str) -> str:
    """Return `text`, a valid node name, or raise InvalidName."""
    if not is_node(text):
        raise InvalidName("node", text, _DASHED_RULE)
    return text


def mesh_name(text: str) -> str:
    """Return `text`, a valid mesh name, or raise InvalidName."""
    if not is_node(text):
        raise InvalidName("mesh", text, _DASHED_RULE)
    return text
