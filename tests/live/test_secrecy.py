"""What apps say to each other is not to be seen on the bus."""

import asyncio
import os
from collections.abc import Iterator

import pytest
from bus_mesh_sdk import Mesh, MeshError, options
from mesh_world import World, program, stranger
from nats.aio.msg import Msg

pytestmark = pytest.mark.timeout(60)
POLICY = """\
kind: Service
name: ledger
access: {allow: [{from: [tester], methods: ["*"]}]}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("secrecy")
    with World(folder, POLICY) as world:
        command = program("ledger.py", folder / "record")
        world.node("node-a", call_as=["tester"])
        world.node("node-b", serve=["ledger"], services={"ledger": {"command": command}})
        world.until_up("node-a", {"ledger": 1})
        yield world


async def test_a_marker_in_parameters_results_metadata_and_errors_is_never_seen_on_the_bus(world: World) -> None:
    raw = os.urandom(16)
    marker = raw.hex()
    seen: list[bytes] = []

    async def note(message: Msg) -> None:
        seen.append(f"{message.subject} {message.reply} {message.headers}".encode() + message.data)

    async with stranger(world) as listener:
        await listener.subscribe(">", cb=note)
        await listener.flush()
        async with Mesh.connect(app="tester", socket=world.nodes["node-a"].socket) as mesh:
            for _ in range(50):
                with options(metadata={"said": marker, "also": raw.decode("latin-1")}):
                    assert await mesh.call("ledger", "echo", {"data": raw + marker.encode()}) == raw + marker.encode()
                    with pytest.raises(MeshError, match=marker) as caught:
                        await mesh.call("ledger", "fail", {"text": marker})
            assert caught.value.metadata == {"said": marker}
            await asyncio.gather(*(mesh.call("ledger", "echo", {"data": raw}) for _ in range(200)))
        await listener.flush()

    # Text travels as UTF-8: the bytes of a marker put into text are not those of the marker.
    shapes = [raw, marker.encode(), marker.upper().encode(), raw.decode("latin-1").encode(), raw[:8], raw[8:]]
    print(f"{len(seen)} messages, {sum(map(len, seen))} bytes, seen on the bus for 300 calls")
    assert len(seen) >= 200, "the listener has to have heard the calls"
    assert not [message for message in seen if any(shape in message for shape in shapes)]
