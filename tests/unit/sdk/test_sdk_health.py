"""What a service says of its own health, asked by its agent and by nobody else."""

import asyncio
import logging
import threading

import pytest
from bus_mesh_sdk import Mesh, PermissionDenied, Service, blocking, health, rpc
from peer import AppSession, PeerAgent

from bus_mesh.protocol.frames import Call, Fail, Reply, Serve
from bus_mesh.protocol.names import HEALTH, is_method


class Prices(Service, name="prices"):
    @rpc
    async def quote(self) -> int:
        raise NotImplementedError


class Asked(Prices):
    """Counts how often it is asked, and fails as it is told."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def quote(self) -> int:
        await self.go.wait()
        return 1

    @health
    async def well(self) -> None:
        self.asked += 1
        if self.error is not None:
            raise self.error


def ask(session: AppSession, ttl_ms: int = 1000, **head: object) -> int:
    return session.call("prices", HEALTH, ttl_ms=ttl_ms, **head)


async def answer(agent: PeerAgent, kind: type) -> Reply | Fail:
    found: Reply | Fail = await agent.next(kind)
    return found


async def test_a_service_with_a_check_says_so_and_answers(mesh: Mesh, agent: PeerAgent) -> None:
    asked = Asked()
    await mesh.serve(asked)
    offered = [method.name for method in (await agent.next(Serve)).methods]
    number = ask(agent.session)
    reply = await answer(agent, Reply)

    assert (offered, is_method(HEALTH)) == (["quote", HEALTH], False)
    assert (reply.id, asked.asked) == (number, 1)


async def test_a_service_without_a_check_offers_none(mesh: Mesh, agent: PeerAgent) -> None:
    class Plain(Prices):
        async def quote(self) -> int:
            return 1

    await mesh.serve(Plain())
    offered = [method.name for method in (await agent.next(Serve)).methods]
    ask(agent.session)

    assert offered == ["quote"]
    assert (await agent.next(Fail)).reason == "UNIMPLEMENTED"


async def test_what_a_check_raises_is_the_answer_and_no_text_of_a_stranger_s_error(
    mesh: Mesh, agent: PeerAgent, caplog: pytest.LogCaptureFixture
) -> None:
    asked = Asked()
    await mesh.serve(asked)
    asked.error = PermissionDenied("the ledger does not let me in")
    ask(agent.session)
    own = await agent.next(Fail)
    asked.error = OSError("password hunter2 refused")
    ask(agent.session)
    foreign = await agent.next(Fail)
    asked.error = None
    ask(agent.session)
    await answer(agent, Reply)

    assert (own.reason, own.message) == ("PERMISSION_DENIED", "the ledger does not let me in")
    assert (foreign.reason, "OSError" in foreign.message, "hunter2" in foreign.message) == ("UNAVAILABLE", True, False)
    logged = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(logged) == 1, "once until it passes again"


async def test_a_full_service_can_still_say_that_it_is_well(mesh: Mesh, agent: PeerAgent) -> None:
    asked = Asked()
    await mesh.serve(asked, concurrency=1, queue=0)
    asked.go.clear()
    agent.session.call("prices", "quote")
    agent.session.call("prices", "quote")
    assert (await agent.next(Fail)).reason == "RESOURCE_EXHAUSTED"
    ask(agent.session)
    await answer(agent, Reply)
    asked.go.set()

    assert asked.asked == 1


async def test_a_check_that_takes_too_long_is_ended_and_is_a_failure(mesh: Mesh, agent: PeerAgent) -> None:
    class Slow(Asked):
        ended = False

        async def well(self) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                self.ended = True

    slow = Slow()
    await mesh.serve(slow)
    ask(agent.session, ttl_ms=20)

    assert (await agent.next(Fail)).reason == "DEADLINE_EXCEEDED"
    assert slow.ended


async def test_a_question_that_came_too_late_is_not_answered(mesh: Mesh, agent: PeerAgent) -> None:
    asked = Asked()
    await mesh.serve(asked)
    ask(agent.session, expires_us=1)
    last = ask(agent.session)

    assert (await answer(agent, Reply)).id == last
    assert asked.asked == 1


async def test_a_blocking_check_runs_in_a_thread_and_one_at_a_time(mesh: Mesh, agent: PeerAgent) -> None:
    go, threads = threading.Event(), list[int]()

    class Blocking(Prices):
        async def quote(self) -> int:
            return 1

        @health
        @blocking
        def well(self) -> None:
            threads.append(threading.get_ident())
            go.wait(5)

    await mesh.serve(Blocking())
    ask(agent.session)
    ask(agent.session)
    second = await agent.next(Fail)
    go.set()
    await answer(agent, Reply)

    assert (second.reason, len(threads)) == ("RESOURCE_EXHAUSTED", 1)
    assert threads != [threading.get_ident()]


async def test_a_check_that_runs_is_ended_with_its_service(mesh: Mesh, agent: PeerAgent) -> None:
    ended, began = asyncio.Event(), asyncio.Event()

    class Endless(Asked):
        async def well(self) -> None:
            began.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

    serving = await mesh.serve(Endless())
    ask(agent.session, ttl_ms=60_000)
    await began.wait()
    await serving.close()

    async with asyncio.timeout(5):
        await ended.wait()


async def test_each_of_two_instances_is_asked_itself(mesh: Mesh, agent: PeerAgent) -> None:
    pair = Asked(), Asked()
    servings = [await mesh.serve(one) for one in pair]
    ask(agent.session, instance=servings[1].instance)
    await answer(agent, Reply)

    assert [one.asked for one in pair] == [0, 1]


async def test_mistakes_are_told_where_they_are_made(mesh: Mesh) -> None:
    with pytest.raises(TypeError, match="put @blocking between"):

        @health  # type: ignore[type-var]
        def plain(self: object) -> None: ...

    with pytest.raises(TypeError, match="no parameter but self"):

        @health  # type: ignore[type-var]
        async def wanting(self: object, what: str) -> None: ...

    class Two(Asked):
        @health
        async def better(self) -> None: ...

    class Both(Asked):
        @health
        @rpc
        async def well(self) -> None: ...

    class Overridden(Asked):
        def well(self) -> None: ...  # type: ignore[override]

    for wrong, said in ((Two(), "better, well: keep one"), (Both(), "both @rpc"), (Overridden(), "write async def")):
        with pytest.raises(TypeError, match=said):
            await mesh.serve(wrong)


async def test_nobody_can_call_it_by_name(mesh: Mesh, agent: PeerAgent) -> None:
    await mesh.serve(Asked())
    with pytest.raises(Exception, match="not a method name"):
        await mesh.call("prices", HEALTH)

    assert not [frame for frame in agent.said() if isinstance(frame, Call)]
