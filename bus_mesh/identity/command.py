"""What an operator asks of the mesh, signed: who asks, for what exactly, of which process, and until when.

A document (`identity/document.py`) whose hint is the operator's chain. It names the epoch key of the process that is to
carry it out, so a recording dies with that process, and a request id, so that asking twice does a thing once.
"""

from collections.abc import Container
from typing import Final, NamedTuple

from bus_mesh.identity import document
from bus_mesh.identity.certificate import CHAIN_LIMIT, May, OperatorCertificate, verify_operator
from bus_mesh.identity.keys import NodeKey
from bus_mesh.identity.peers import SKEW_US
from bus_mesh.identity.refusal import Reason, Untrusted
from bus_mesh.protocol import names

__all__ = ["COMMAND_LIFE_US", "COMMAND_LIMIT", "Command", "sign_command", "verify_command"]

COMMAND_LIMIT: Final = 768 * 1024
"""Bytes that a command with its operator's chain may take: it travels in one envelope."""
COMMAND_LIFE_US: Final = 60_000_000
"""How long a command is good for; who asks later signs anew."""
REQUEST_LIMIT: Final = 64
_TYPE: Final = "busmesh command 1"
_SHAPE: Final = (str, str, bytes, str, bytes, int, int)


class Command(NamedTuple):
    """`arguments` are for the verb to read; `target` is the id of the epoch key of who shall do it."""

    mesh: str
    verb: str
    arguments: bytes
    request: str
    target: bytes
    issued_us: int
    expires_us: int


def sign_command(
    operator: NodeKey,
    chain: bytes,
    *,
    mesh: str,
    verb: str,
    arguments: bytes,
    request: str,
    target: bytes,
    issued_us: int,
) -> bytes:
    """Return a command signed by the operator that `chain` certifies, good for `COMMAND_LIFE_US`."""
    fields = (names.mesh_name(mesh), verb, arguments, request, target, issued_us, issued_us + COMMAND_LIFE_US)
    return document.sign(_TYPE, fields, operator, chain)


def verify_command(
    data: bytes, mesh: str, root: bytes, now_us: int, targets: Container[bytes], may: May
) -> tuple[OperatorCertificate, Command]:
    """Return who asks and what for, verified from the public key `root` down; `now_us` is the wall clock.

    Raises Untrusted: TOO_LARGE, MALFORMED, BAD_SIGNATURE, WRONG_MESH, WEAK_KEY, NOT_YET_VALID or EXPIRED (the chain's,
    or the command's own), WRONG_ROLE for an operator who may not, NOT_A_RECIPIENT for a command to another process.
    """
    if len(data) > COMMAND_LIMIT:
        raise Untrusted(Reason.TOO_LARGE, f"a command of {len(data)} bytes, over {COMMAND_LIMIT}")
    parts = document.read(data, _TYPE)
    if len(parts.hint) > CHAIN_LIMIT:
        raise Untrusted(Reason.TOO_LARGE, f"a chain of {len(parts.hint)} bytes, over {CHAIN_LIMIT}")
    operator = verify_operator(parts.hint, mesh, root, now_us)
    fields = document.verified(parts, operator.key)
    if tuple(map(type, fields)) != _SHAPE:
        raise Untrusted(Reason.MALFORMED, "wrong fields for a command")
    command = Command._make(fields)
    if command.mesh != mesh:
        raise Untrusted(Reason.WRONG_MESH, f"a command for mesh {command.mesh!r}, not {mesh!r}")
    if may not in operator.may:
        granted = ", ".join(sorted(operator.may)) or "nothing"
        raise Untrusted(Reason.WRONG_ROLE, f"operator {operator.name} may {granted}, and not {may}")
    if (
        not 0 < command.expires_us - command.issued_us <= COMMAND_LIFE_US
        or not 0 < len(command.request) <= REQUEST_LIMIT
    ):
        raise Untrusted(Reason.MALFORMED, "a command without a request id, or good for too long")
    if command.issued_us > now_us + SKEW_US:
        ahead = (command.issued_us - now_us) / 1e6
        raise Untrusted(Reason.NOT_YET_VALID, f"the command is dated {ahead:.0f}s ahead: compare the clocks")
    if now_us >= command.expires_us:
        over = (now_us - command.expires_us) / 1e6
        raise Untrusted(Reason.EXPIRED, f"the command expired {over:.0f}s ago: sign it anew, or compare the clocks")
    if command.target not in targets:
        raise Untrusted(
            Reason.NOT_A_RECIPIENT, "the command is for another process, or for an earlier start of this one"
        )
    return operator, command
