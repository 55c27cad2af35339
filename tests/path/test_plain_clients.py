"""What plain clients of NATS say to an agent, hostile or not, on a bus in memory."""

import json

import pytest
from bus_mesh_sdk.testing import MeshTest
from test_whole_mesh import Book, Ledger, network

from bus_mesh.bus.memory import Message

OPEN = """\
kind: Service
name: ledger
access: {allow: [{from: ["*"], methods: ["*"]}]}
expose: micro
"""


class Client:
    """A bus of its own, and all that comes to its inbox."""

    def __init__(self, t: MeshTest) -> None:
        self.bus = network(t).broker.connect()
        self.heard: list[Message] = []
        network(t).broker.tap(self._see)
        self.root = f"mesh.{next(iter(network(t).nodes.values())).own.mesh}.rpc.ledger."

    def _see(self, message: Message) -> None:
        if message.subject.startswith("_INBOX."):
            self.heard.append(message)

    def ask(self, data: bytes, method: str = "read", reply: str = "_INBOX.a") -> None:
        self.bus.publish(self.root + method, data, reply)

    @property
    def codes(self) -> list[str]:
        """The code of each answer, "" for a success."""
        return [m.headers.decode().partition("Error-Code: ")[2].partition("\r")[0] for m in self.heard]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"line": "a"}', ""),
        (b'{"line": 7}', "400"),
        (b"", "400"),
        (b"[]", "400"),
        (b"{" * 100_000, "400"),
        (b'{"line": 1e999}', "400"),
        (b'{"line": ' + b"9" * 5000 + b"}", "400"),
        (b"\xff\xfe", "400"),
    ],
)
async def test_json_runs_and_anything_else_is_refused(data: bytes, code: str) -> None:
    async with MeshTest() as t:
        await t.serve(Book())
        t.policy(OPEN)
        client = Client(t)
        client.ask(data)
        await t.advance(0.1)

        assert client.codes == [code]
        if not code:
            assert json.loads(client.heard[0].data) == "a"


async def test_what_is_not_exposed_gets_401_ten_times_a_second_and_silence_beyond() -> None:
    async with MeshTest() as t:
        await t.serve(Book())
        client = Client(t)
        for _ in range(100):
            client.ask(b"{}")
        await t.advance(0.1)

        assert client.codes == ["401"] * 10


@pytest.mark.parametrize("reply", ["", "mesh.test.node.a.b", "_INBOX." + "x" * 300, "_INBOX.\u200b", "_INBOX.\u00e9"])
async def test_nothing_is_said_to_what_is_no_inbox(reply: str) -> None:
    async with MeshTest() as t:
        await t.serve(Book())
        t.policy(OPEN)
        client = Client(t)
        client.ask(b'{"line": "a"}', reply=reply)
        await t.advance(0.1)

        assert client.heard == []
        assert sum(node.bus.handler_errors for node in network(t).nodes.values()) == 0


async def test_a_handler_that_does_not_answer_ends_in_504_and_the_place_is_free_again() -> None:
    async with MeshTest() as t:
        book = Book()
        await t.serve(book)
        t.policy(OPEN)
        client = Client(t)
        book.go.clear()
        client.ask(b'{"line": "a"}')
        await t.advance(6.0)

        assert client.codes == ["504"]
        assert [node.micro._under_way for node in network(t).nodes.values()] == [0] * len(network(t).nodes)
        book.go.set()
        assert await t.call(Ledger.read, "b") == "b"


async def test_names_that_a_stranger_thinks_of_leave_nothing_behind() -> None:
    async with MeshTest() as t:
        await t.serve(Book())
        t.policy(OPEN)
        client = Client(t)
        client.ask(b'{"line": "a"}')
        await t.advance(0.1)
        (inbound,) = [node.inbound for node in network(t).nodes.values() if node.inbound.came]
        before = repr(inbound)
        for number in range(200):
            client.ask(b"{}", f"method_{number}")
        await t.advance(0.1)

        assert client.codes == ["", *["501"] * 200]
        assert repr(inbound) == before, "no path, no call"
