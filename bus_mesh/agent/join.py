"""`busmesh agent --join TOKEN`: how a machine gets its identity, over the bus, before its agent starts.

    token ──▶ the bus, by the user in it ──▶ a key of its own ──request──▶ policy agent ──answer──▶ checked ──▶ written

The key never leaves the machine. Request and key lie in a folder beside the one to come, `.identity.joining`, from
before the first word until the identity is whole and takes its name in one step: who is cut off in between asks the
same again, and gets the same answer. A refusal leaves nothing.
"""

import asyncio
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from bus_mesh import clock
from bus_mesh.agent.durable import replace, sync
from bus_mesh.bus.access import Access, trusting
from bus_mesh.bus.contract import Bus, BusRejected, BusUnreachable
from bus_mesh.bus.nats_bus import NatsBus
from bus_mesh.identity.bus_credentials import Credentials
from bus_mesh.identity.enrolment import (
    NONCE_BYTES,
    Admitted,
    EnrolmentRefused,
    Request,
    Token,
    secret_key,
    sign_request,
    verify_answer,
)
from bus_mesh.identity.keys import NodeKey
from bus_mesh.identity.nkeys import Kind, Nkey
from bus_mesh.identity.refusal import Untrusted
from bus_mesh.protocol.subjects import Subjects

__all__ = ["JoinFailed", "ask", "join", "prepare", "write"]

PATIENCE: Final = 30.0
"""Seconds that an answer is waited for, and as many for the bus."""
AGAIN: Final = 1.0
"""Seconds between two askings of the same."""
_LATE: Final = "the token's time is over; have another token made"


class JoinFailed(Exception):
    """This machine did not become a node; the message says why, and what to do."""


class Asking(NamedTuple):
    """What a joiner has made: its keys, and its request."""

    folder: Path
    key: NodeKey
    user: Nkey | None
    request: bytes


async def join(token: Token, identity: Path) -> None:
    """Become the node of a token, and write its identity; raise JoinFailed or EnrolmentRefused."""
    _free(identity)
    roll, name = random.SystemRandom().random, f"busmesh joining {token.node}"
    bus = NatsBus(token.urls, name=name, roll=roll, access=_way(token))
    await bus.start()
    try:
        await _ready(bus, token)
        asking = prepare(token, identity, os.urandom)
        try:
            admitted = await ask(bus, token, asking, clock.wall_us)
        except EnrolmentRefused:
            shutil.rmtree(asking.folder)
            raise
        write(token, asking, admitted, identity)
    finally:
        await bus.close()


def prepare(token: Token, identity: Path, entropy: Callable[[int], bytes]) -> Asking:
    """Make the keys and the request, or take up those of an earlier attempt with this token."""
    folder = identity.with_name(f".{identity.name}.joining")
    asked, key_file, seed_file = folder / f"{token.id}.request", folder / "node.key", folder / "bus.seed"
    if not asked.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        key, nonce = NodeKey.generate(entropy), entropy(NONCE_BYTES)
        user = Nkey.generate(Kind.USER, entropy) if token.jwt else None
        said = Request(token.mesh, token.id, token.node, key.public, user.public if user else "", nonce)
        replace(key_file, key.raw, mode=0o600)
        if user is not None:
            replace(seed_file, user.seed.encode(), mode=0o600)
        replace(asked, sign_request(said, key, secret_key(token.id, token.secret)))
        sync(folder)
    user = Nkey.from_seed(seed_file.read_text(), Kind.USER) if seed_file.exists() else None
    return Asking(folder, NodeKey.from_bytes(key_file.read_bytes()), user, asked.read_bytes())


async def ask(
    bus: Bus, token: Token, asking: Asking, wall_us: Callable[[], int], patience: float = PATIENCE
) -> Admitted:
    """Ask until the answer comes; raise EnrolmentRefused, or JoinFailed when none does."""
    subjects, answer = Subjects(token.mesh), asyncio.get_running_loop().create_future()
    doubts: list[str] = []

    def on_answer(subject: str, reply: str, data: bytes, status: int) -> None:
        if answer.done():
            return
        try:
            answer.set_result(verify_answer(data, token, asking.request, asking.key.public, wall_us()))
        except EnrolmentRefused as error:
            answer.set_exception(error)
        except Untrusted as error:
            doubts[:] = [str(error)]  # somebody else may have said it: the right one may still come

    listening = await bus.subscribe(subjects.enrolled(token.id), on_answer)
    try:
        async with asyncio.timeout(patience):
            while not answer.done():
                bus.publish(subjects.enrol(token.id), asking.request)
                await asyncio.wait([answer], timeout=AGAIN)
            admitted: Admitted = answer.result()
            return admitted
    except TimeoutError:
        if token.expires_us <= wall_us():  # the bus lets its user go then, perhaps before it has heard the answer
            raise JoinFailed(f"{token.node} was not admitted: {_LATE}") from None
        why = f"what was answered was not believed ({doubts[0]})" if doubts else "nobody answered"
        then = "is a policy agent with the issuer's key running? The same command goes on where this one stopped"
        raise JoinFailed(f"{token.node} was not admitted within {patience:g} s: {why}; {then}") from None
    finally:
        await listening.unsubscribe()


def write(token: Token, asking: Asking, admitted: Admitted, identity: Path) -> None:
    """Write an identity, which takes its name once it is whole."""
    folder = asking.folder
    replace(folder / "node.chain", admitted.chain)
    replace(folder / "root.pub", admitted.root)
    if token.ca:
        replace(folder / "ca.pem", token.ca.encode())
    if asking.user is not None and admitted.jwt:
        replace(folder / "bus.creds", Credentials(admitted.jwt, asking.user).text().encode(), mode=0o600)
    for file in (folder / f"{token.id}.request", folder / "bus.seed"):
        file.unlink(missing_ok=True)
    sync(folder)
    folder.rename(identity)
    sync(identity.parent)


def _free(identity: Path) -> None:
    """Raise JoinFailed, before a token is used, where the identity could not be put."""
    if identity.exists() and (not identity.is_dir() or any(identity.iterdir())):
        raise JoinFailed(f"{identity} is there and holds no node's identity: move it away, or name another place")


def _way(token: Token) -> Access:
    tls = trusting(token.ca or None) if token.ca or any(url.startswith("tls://") for url in token.urls) else None
    read = None
    if token.jwt:
        shown = Credentials(token.jwt, Nkey.from_seed(token.seed, Kind.USER))
        read = lambda: shown  # noqa: E731 - what is shown at every connection
    return Access.with_user(read, tls=tls, tls_first=tls is not None and token.tls_first)


async def _ready(bus: Bus, token: Token) -> None:
    try:
        await bus.ready(PATIENCE)
    except BusRejected as error:
        late = token.expires_us <= clock.wall_us()
        why = _LATE if late else f"{error}; have another token made"
        raise JoinFailed(f"the bus does not let {token.node} ask: {why}") from None
    except BusUnreachable as error:
        raise JoinFailed(f"{error}; the token names that address: have one made with --bus for another") from None
