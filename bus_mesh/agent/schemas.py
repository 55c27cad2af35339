"""What the methods of this node's services take and give, as their own apps say it.

Announcements carry a digest of each method's schema alone. The schema itself is asked for once somebody wants to see
it: a call of the agent's own, `_schema`, on the socket of whoever serves. What does not have the announced digest is
not shown, and what does is kept by it.
"""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final

import msgpack

from bus_mesh.agent.inbound import Instance, Server
from bus_mesh.agent.session import CONSOLE
from bus_mesh.protocol import names
from bus_mesh.protocol.errors import FailedPrecondition, NotFound, Ran, Unavailable
from bus_mesh.protocol.frames import Call, Fail, Head, Kind, Method, encode
from bus_mesh.protocol.names import SCHEMA

__all__ = ["Schemas"]

PATIENCE: Final = 2.0
"""Seconds that an app has to say what a method takes."""
KEPT: Final = 256
LONGEST: Final = 64 * 1024
"""Bytes of a schema; longer ones are not shown."""
_CALL: Final = int(Kind.CALL)
_Answer = tuple[bytes | None, Fail | None]


class Schemas:
    """Asks the instances in `instances`, and keeps what they say."""

    def __init__(self, instances: Mapping[str, Instance], now: Callable[[], float]) -> None:
        self._instances = instances
        self._now = now
        self._asked: dict[tuple[Server, int], asyncio.Future[_Answer]] = {}
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def __repr__(self) -> str:
        return f"Schemas(kept={len(self._kept)}, asked={len(self._asked)})"

    async def told(self, arguments: dict[str, Any]) -> object:
        """Return {"schema": digest, "parameters": JSON schema, "result": JSON schema} of `service` and `method`.

        Raises NotFound where nobody here serves it, FailedPrecondition or Unavailable for an app that does not say it.
        """
        service = names.service_name(str(arguments.get("service", "")))
        name = names.method_name(str(arguments.get("method", "")))
        here = [one for one in self._instances.values() if one.service == service and name in one.methods]
        if not here:
            raise NotFound(f"nobody on this node serves {service}/{name}", ran=Ran.NO)
        method = here[-1].methods[name]
        if method.schema in self._kept:
            self._kept.move_to_end(method.schema)
        else:
            self._keep(method.schema, await self._ask(here[-1], method))
        return {"schema": method.schema, **self._kept[method.schema]}

    def answered(self, session: Server, number: int, payload: bytes | None, fail: Fail | None) -> None:
        """Take in an answer; one that came too late, or to something else, is ignored."""
        waiting = self._asked.get((session, number))
        if waiting is not None and not waiting.done():
            waiting.set_result((payload, fail))

    async def _ask(self, instance: Instance, method: Method) -> Any:
        session, number = instance.session, instance.session.next_number()
        head: Head = {"expires_us": int((self._now() + PATIENCE) * 1e6)}
        if len(session.instances) > 1:
            head["instance"] = instance.id
        asked = msgpack.packb({"method": method.name})
        waiting: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._asked[session, number] = waiting
        try:
            session.write(
                encode(Call(_CALL, number, instance.service, SCHEMA, int(PATIENCE * 1000), CONSOLE, head, asked))
            )
            async with asyncio.timeout(PATIENCE):
                payload, fail = await waiting
        except TimeoutError:
            raise Unavailable(f"{instance.id} did not say what {method.name} takes for {PATIENCE:g} s") from None
        finally:
            del self._asked[session, number]
        return _read(instance, method, payload, fail)

    def _keep(self, digest: str, schema: Any) -> None:
        self._kept[digest] = schema
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)


def _read(instance: Instance, method: Method, payload: bytes | None, fail: Fail | None) -> Any:
    """Return a schema that has the digest which its method was announced with."""
    if payload is None or len(payload) > LONGEST:
        why = f"{fail.reason}: {fail.message}" if fail is not None else f"over {LONGEST} bytes"
        raise FailedPrecondition(f"{instance.id} does not say what {method.name} takes: {why}")
    try:
        text = msgpack.unpackb(payload)
        if sha256(text.encode()).hexdigest()[:16] != method.schema:
            raise FailedPrecondition(f"{instance.id} says of {method.name} what is not what it announced")
        said = json.loads(text)
        return {"parameters": said["parameters"], "result": said["result"]}
    except FailedPrecondition:
        raise
    except Exception:  # whatever an app may send
        raise FailedPrecondition(f"{instance.id} says of {method.name} what cannot be read") from None
