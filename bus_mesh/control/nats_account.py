"""Hand running servers the newer token of an account: how a user is revoked without touching a server's files.

Servers put it into force within milliseconds, pass it on to the others of their cluster, and keep it in the directory
of their resolver, so it outlives their restart. Users that it revokes are cut off at once and cannot come back.
"""

import asyncio
import json
from typing import Any, Final

from bus_mesh.bus.contract import NO_RESPONDERS, Bus
from bus_mesh.control.permissions import CLAIMS_UPDATE, INBOXES

__all__ = ["PushRefused", "push_account"]

_DONE: Final = 200
_LONGEST: Final = 300


class PushRefused(Exception):
    """No server took the token; the message says what came back."""


async def push_account(bus: Bus, token: str, *, inbox: str, timeout: float = 5.0) -> None:
    """Return once a server has taken in an account's token; raise PushRefused.

    `bus` is connected as a user of the system account (`Authority.pusher`); `inbox` is a token that nobody can guess,
    to be answered at; `timeout` is in seconds.
    """
    answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

    def take(_: str, __: str, data: bytes, status: int) -> None:
        if not answer.done():
            answer.set_result((status, data))

    reply = INBOXES.replace(">", inbox)
    listening = await bus.subscribe(reply, take)
    try:
        if not bus.publish(CLAIMS_UPDATE, token.encode(), reply):
            raise PushRefused(f"the bus is not connected ({bus.state.value}): is the server running?")
        status, data = await asyncio.wait_for(answer, timeout)
    except TimeoutError:
        raise PushRefused(f"no server answered within {timeout:g} s: may this user push tokens of accounts?") from None
    finally:
        await listening.unsubscribe()
    if status == NO_RESPONDERS:
        raise PushRefused("no server takes tokens: these are not users of the system account, or no full resolver")
    _check(data)


def _check(data: bytes) -> None:
    try:
        said: dict[str, Any] = json.loads(data)
        code = said.get("data", {}).get("code")
    except (ValueError, AttributeError):
        code, said = None, {}
    if code != _DONE:
        why = said.get("error") or data[:_LONGEST].decode(errors="replace")
        raise PushRefused(f"the server did not take the token: {why}")
