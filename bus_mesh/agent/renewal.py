"""How a running agent gets its next certificate: at half of the present one's life, over the bus, without a pause.

    half life ──request, kept on disk──▶ policy agent ──chain──▶ checked ──▶ on disk ──▶ in force, with a new epoch key

The request is on disk before it is sent: an agent that dies before the answer asks the very same again, and is not
taken for a copy of itself. The new epoch key makes others look at the new certificate: they know the old key already,
and would not read who introduces himself by it again.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from bus_mesh.agent.announce import Announcer
from bus_mesh.agent.control import Control
from bus_mesh.agent.durable import replace, sync
from bus_mesh.agent.outbound import Outbound
from bus_mesh.identity.bus_credentials import BadCredentials, Credentials
from bus_mesh.identity.certificate import NodeCertificate
from bus_mesh.identity.keyring import Keyring, Now, Own, Untrusted, own_identity
from bus_mesh.identity.renewal import (
    NONCE_BYTES,
    Renewal,
    pack_asked,
    read_answered,
    read_renewal,
    sign_renewal,
)
from bus_mesh.protocol.errors import MeshError
from bus_mesh.telemetry.log import get_logger

__all__ = ["Renewer", "due_us"]

ASK_SECONDS: Final = 10.0
"""How long an answer may take."""
LOOK_SECONDS: Final = 60.0
"""Between two looks at the wall clock, which may be set, or stand still with the machine."""
SHORTEST_PAUSE: Final = 5.0
LONGEST_PAUSE: Final = 600.0
"""Seconds between two attempts, doubling, each with jitter of half its length."""


class Renewable(Protocol):
    """What is needed of an agent to go on under a newer certificate."""

    own: Own
    keyring: Keyring
    control: Control
    announcer: Announcer
    outbound: Outbound


def due_us(certificate: NodeCertificate) -> int:
    """Return when a certificate is to be renewed: half-way between its first and its last moment."""
    return (certificate.not_before_us + certificate.not_after_us) // 2


class Renewer:
    """Renews the certificate in the folder `identity`, and the user of the bus in the file `credentials`, if any."""

    def __init__(
        self,
        node: Renewable,
        identity: Path,
        credentials: Path | None,
        clock: Callable[[], Now],
        entropy: Callable[[int], bytes],
        jitter: Callable[[], float],
    ) -> None:
        self.renewals = 0
        """Certificates that were renewed since the start."""
        self._node = node
        self._identity = identity
        self._credentials = credentials
        self._clock = clock
        self._entropy = entropy
        self._jitter = jitter
        self._log = get_logger("renewal")

    def __repr__(self) -> str:
        return f"Renewer({self._node.own.node}, renewals={self.renewals})"

    async def run(self) -> None:
        """Renew whenever it is time, for ever."""
        pause = SHORTEST_PAUSE
        while True:
            left = (due_us(self._node.own.certificate) - self._clock().wall_us) / 1e6
            if left > 0:
                await asyncio.sleep(min(left, LOOK_SECONDS))
                continue
            try:
                await self.renew()
                pause = SHORTEST_PAUSE
            except (MeshError, Untrusted, BadCredentials, OSError) as error:
                ends = (self._node.own.certificate.not_after_us - self._clock().wall_us) / 1e6
                self._log.warning("certificate not renewed", why=str(error), ends_in_s=round(ends))
                await asyncio.sleep(pause * (0.5 + self._jitter()))
                pause = min(LONGEST_PAUSE, pause * 2)

    async def renew(self) -> None:
        """Ask for the next certificate and go on under it; raise MeshError, Untrusted, BadCredentials or OSError."""
        own, shown = self._node.own, await asyncio.to_thread(self._shown)
        request = await asyncio.to_thread(self._request, own, shown.key.public if shown is not None else "")
        answer = await self._node.control.ask("renew", pack_asked(request), ASK_SECONDS)
        chain, jwt = read_answered(answer)
        new = own_identity(own.key, chain, own.mesh, own.root, self._clock().wall_us)
        user = Credentials(jwt, shown.key) if shown is not None and jwt else None
        try:
            await asyncio.to_thread(self._keep, chain, user)
        except OSError as error:
            # In force all the same: a full disk must not end a node that runs.
            self._log.error("the new certificate is not on disk: a start after the old one's end fails", why=str(error))
        now = self._clock()
        self._node.keyring.renew(new, now)
        self._node.own = new
        self._node.keyring.rotate(now)
        self._node.outbound.recompile()
        self._node.announcer.announce()
        self.renewals += 1
        hours = (new.certificate.not_after_us - now.wall_us) / 3.6e9
        self._log.info("certificate renewed", serial=new.certificate.serial, good_for_h=round(hours, 2))

    # On disk.

    def _shown(self) -> Credentials | None:
        return None if self._credentials is None else Credentials.parse(self._credentials.read_text())

    def _request(self, own: Own, user: str) -> bytes:
        """Return the request under the present serial: the one that was begun, or a new one."""
        file, serial = self._identity / "renewal", own.certificate.serial
        try:
            begun = file.read_bytes()
            said = read_renewal(begun)
            if (said.serial, said.key, said.user) == (serial, own.key.public, user):
                return begun
        except (FileNotFoundError, Untrusted):
            pass
        fresh = Renewal(own.mesh, own.node, serial, own.key.public, user, self._entropy(NONCE_BYTES))
        signed = sign_renewal(fresh, own.key)
        replace(file, signed)
        sync(self._identity)
        return signed

    def _keep(self, chain: bytes, shown: Credentials | None) -> None:
        if shown is not None and self._credentials is not None:
            replace(self._credentials, shown.text().encode(), mode=0o600)
        replace(self._identity / "node.chain", chain)
        (self._identity / "renewal").unlink(missing_ok=True)
        sync(self._identity)
