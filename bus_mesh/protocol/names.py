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

_DASHED_RULE: Final = "a lower-case letter, then up to 62 of a-z 0-9 -"
_METHOD_RULE: Final = "a lower-case letter, then up to 62 of a-z 0-9 _"

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
