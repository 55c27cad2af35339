"""What an agent shows of a method's schema: nothing that its app has not announced."""

import asyncio
import json
from hashlib import sha256
from typing import Any

import msgpack
import pytest

from bus_mesh.agent.inbound import Instance
from bus_mesh.agent.schemas import KEPT, Schemas
from bus_mesh.protocol.errors import FailedPrecondition, InvalidName, NotFound, Ran, Unimplemented
from bus_mesh.protocol.frames import Fail, Kind, Method, decode

TEXT = json.dumps({"parameters": {"type": "object"}, "result": {"type": "string"}})


class App:
    """An app on a socket, that answers at once with what it is told to; it counts how often it was asked."""

    serving: dict[int, Any]
    instances: dict[str, object]

    def __init__(self, payload: bytes | None) -> None:
        self.serving, self.instances, self.asked = {}, {"one": self}, []
        self.payload = payload
        self.schemas: Schemas | None = None

    def next_number(self) -> int:
        return len(self.asked) + 1

    def write(self, frame: bytes) -> None:
        call = decode(frame)
        self.asked.append((call.method, msgpack.unpackb(call.payload)))
        fail = None
        if self.payload is None:
            error = Unimplemented("no such method", ran=Ran.NO)
            fail = Fail(int(Kind.FAIL), call.id, int(error.code), error.reason, error.message, None, None)
        assert self.schemas is not None
        self.schemas.answered(self, 999, self.payload, fail)
        self.schemas.answered(self, call.id, self.payload, fail)
        self.schemas.answered(self, call.id, b"", None)


def world(payload: bytes | None, **digests: str) -> tuple[App, Schemas]:
    app = App(payload)
    methods = {name: Method(name, True, 0, digest) for name, digest in digests.items()}
    instance = Instance("a-1", "orders", "1", {}, methods, app)
    app.schemas = Schemas({"a-1": instance}, lambda: 5.0)
    return app, app.schemas


def told(schemas: Schemas, method: str = "get", service: str = "orders") -> Any:
    return asyncio.run(schemas.told({"service": service, "method": method}))


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


def test_what_has_the_announced_digest_is_shown_and_asked_for_once() -> None:
    app, schemas = world(msgpack.packb(TEXT), get=digest(TEXT), put=digest(TEXT))

    for method in ("get", "put", "get"):
        assert told(schemas, method) == {"schema": digest(TEXT), **json.loads(TEXT)}
    assert app.asked == [("_schema", {"method": "get"})]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (msgpack.packb(TEXT + " "), "not what it announced"),
        (msgpack.packb(7), "cannot be read"),
        (b"\xc1", "cannot be read"),
        (b"", "cannot be read"),
        (bytes(65 * 1024), "over 65536 bytes"),
        (None, "UNIMPLEMENTED: no such method"),
    ],
)
def test_another_answer_is_not_shown(payload: bytes | None, why: str) -> None:
    _, schemas = world(payload, get=digest(TEXT))

    with pytest.raises(FailedPrecondition, match=why):
        told(schemas)
    assert repr(schemas) == "Schemas(kept=0, asked=0)"


def test_text_with_the_digest_that_is_no_schema_is_not_shown() -> None:
    _, schemas = world(msgpack.packb("[]"), get=digest("[]"))

    with pytest.raises(FailedPrecondition, match="cannot be read"):
        told(schemas)


def test_what_is_not_served_here_is_not_found() -> None:
    _, schemas = world(msgpack.packb(TEXT), get=digest(TEXT))

    with pytest.raises(NotFound, match="nobody on this node serves orders/gone"):
        told(schemas, "gone")
    with pytest.raises(NotFound):
        told(schemas, service="stock")
    for method in ("_health", 7):
        with pytest.raises(InvalidName):
            told(schemas, method)  # type: ignore[arg-type]  # an operator may sign anything


def test_a_bounded_number_of_schemas_is_kept() -> None:
    texts = {f"m{n}": json.dumps({"parameters": n, "result": n}) for n in range(KEPT + 5)}
    app, schemas = world(None, **{name: digest(text) for name, text in texts.items()})

    for name, text in texts.items():
        app.payload = msgpack.packb(text)
        told(schemas, name)

    assert repr(schemas) == f"Schemas(kept={KEPT}, asked=0)"
