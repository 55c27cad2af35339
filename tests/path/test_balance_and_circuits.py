"""Balance and Breaker together, as calls meet them: who gets a call, whose circuit hears how it ended."""

from typing import Any

import pytest
from path_world import App, Caller, Message, Serving

from bus_mesh.balance.directory import Member
from bus_mesh.identity.keyring import Peer
from bus_mesh.protocol.frames import Call, Fail, Reply
from bus_mesh.resilience.breaker import State
from bus_mesh.resilience.circuits import Circuits

LEAST = "balance: least_request"


@pytest.fixture
def one() -> Serving:
    return Serving("n1")


@pytest.fixture
def two() -> Serving:
    return Serving("n2")


@pytest.fixture
def app() -> App:
    return App()


def calls(serving: Serving, messages: list[Message]) -> list[Call]:
    return [frame for message in messages for frame in serving.open(message) if isinstance(frame, Call)]


def member(caller: Caller, id: str) -> Member[Peer]:
    found = caller.directory.member("orders", id)
    assert found is not None
    return found


def test_what_never_left_this_agent_says_nothing_of_how_fast_an_instance_is(one: Serving, app: App) -> None:
    caller = Caller(one, traffic=LEAST, max_payload=128 * 1024)
    caller.now = 5000.0
    caller.outbound.call(app, Call(1, 1, "orders", "create", 500, "", None, b"x" * 140_000), caller.now)

    assert app.fail.reason == "PAYLOAD_TOO_LARGE"
    assert member(caller, "n1-1").latency.level is None


def test_an_answer_that_took_long_counts_though_it_is_a_failure(one: Serving, app: App) -> None:
    caller = Caller(one, traffic=LEAST)
    caller.call(app)
    (call,) = calls(one, caller.turn())
    caller.wait(0.5)
    caller.answered(one, Fail(3, call.id, 13, "INTERNAL", "broke", None, {"ran": "yes", "instance": "n1-1"}))

    assert member(caller, "n1-1").latency.seconds == pytest.approx(0.5)


@pytest.mark.parametrize("head", [{"instance": ["n1-1"]}, {"instance": {"n1-1": 1}}, {"instance": 7}])
def test_what_is_no_name_of_an_instance_names_none(one: Serving, app: App, head: dict[str, Any]) -> None:
    caller = Caller(one)
    caller.call(app, **head)

    assert (app.fail.reason, app.fail.head) == ("NO_INSTANCES", {"ran": "no"})


@pytest.mark.parametrize("key", [7, ["a"], b"a", "x" * 1025])
def test_an_idempotency_key_is_text_of_bounded_length(one: Serving, app: App, key: object) -> None:
    caller = Caller(one)
    caller.call(app, idempotency_key=key)

    assert (app.fail.reason, app.fail.head) == ("INVALID_ARGUMENT", {"ran": "no"})
    assert caller.turn() == []


BREAKER = "breaker: {failures: 2, rest: 1s, longest_rest: 8s}"


def circuits(caller: Caller, scope: str = "") -> Circuits:
    found = caller.parts.circuits.get(("orders", scope))
    assert found is not None
    return found


def state(caller: Caller, id: str, scope: str = "") -> State | None:
    breaker = circuits(caller, scope).of(id)
    return None if breaker is None else breaker.state


def broke(call: Call, instance: str | None, ran: str = "yes") -> Fail:
    head: dict[str, Any] = {"ran": ran} | ({"instance": instance} if instance else {})
    return Fail(3, call.id, 13, "INTERNAL", "broke", None, head)


class World:
    """A caller, two nodes and an app; numbers its calls."""

    def __init__(self, traffic: str, *nodes: str) -> None:
        self.nodes = {node: Serving(node) for node in nodes or ("n1", "n2")}
        self.caller, self.app = Caller(*self.nodes.values(), traffic=traffic), App()
        self._number = 0

    def call(self, method: str = "create", **head: Any) -> tuple[str, Call, bool]:
        """Make a call; return the node it reached (the first, in queue mode), what it got, and if it went direct."""
        self._number += 1
        self.caller.call(self.app, self._number, method, **head)
        (message,) = self.caller.turn()
        direct = [node for node, serving in self.nodes.items() if serving.inbox == message.subject]
        known = (node for node in self.nodes if self.caller.directory.member("orders", f"{node}-1"))
        node = direct[0] if direct else next(known)
        (call,) = calls(self.nodes[node], [message])
        return node, call, bool(direct)

    def fail(self, node: str, instance: str | None = None, times: int = 2) -> None:
        """Have calls fail as often, by the word of this node, of its one instance if none is named."""
        for _ in range(times):
            _, call, _ = self.call()
            self.caller.answered(self.nodes[node], broke(call, instance or f"{node}-1"))

    def settled(self) -> bool:
        """Whether nothing is under way, and every count of it is at nothing."""
        at = [member(self.caller, f"{node}-1") for node in self.nodes]
        return not (
            self.caller.outbound.awaiting or any(it.inflight or it.tally.inflight for it in at) or self.app.flights
        )


def test_calls_go_direct_round_an_instance_that_keeps_failing_until_its_probe_succeeds() -> None:
    world = World(BREAKER)
    assert not world.call()[2], "the broker chooses while all is well"
    world.fail("n1")
    assert state(world.caller, "n1-1") is State.OPEN
    for _ in range(4):
        node, call, direct = world.call()
        assert (node, direct) == ("n2", True)
        world.caller.answered(world.nodes["n2"], Reply(2, call.id, {"instance": "n2-1"}, b"ok"))
    world.caller.wait(1.1)
    node, probe, direct = world.call()
    assert (node, direct, state(world.caller, "n1-1")) == ("n1", True, State.PROBING)
    assert world.call()[0] == "n2", "there is one probe at a time"
    world.caller.answered(world.nodes["n1"], Reply(2, probe.id, {"instance": "n1-1"}, b"ok"))

    assert state(world.caller, "n1-1") is State.CLOSED
    assert not world.call()[2]
    assert world.caller.events == [("breaker_changes", word) for word in ("open", "probing", "closed")]


def test_a_probe_that_fails_opens_the_circuit_for_longer() -> None:
    world = World(BREAKER)
    world.fail("n1")
    for rest in (1.0, 2.0, 4.0, 8.0, 8.0):
        breaker = circuits(world.caller).of("n1-1")
        assert breaker is not None
        assert breaker.retry_after(world.caller.now) == pytest.approx(rest / 2)  # the jitter of the test is 0
        world.caller.wait(rest / 2 + 0.01)
        node, probe, _ = world.call()
        assert node == "n1"
        world.caller.answered(world.nodes["n1"], broke(probe, "n1-1"))


@pytest.mark.parametrize("how", ["given up", "app gone", "bus away", "leaving"])
def test_a_probe_that_tells_nothing_leaves_its_claim_to_the_next_call(how: str) -> None:
    world = World(BREAKER)
    world.fail("n1")
    world.caller.wait(1.1)
    if how == "bus away":
        world.caller.bus.away = True
        world.caller.call(world.app, 99)
        world.caller.turn()
        world.caller.bus.away = False
        assert world.app.fail.reason == "BUS_STALLED"
    else:
        node, probe, _ = world.call()
        assert (node, state(world.caller, "n1-1")) == ("n1", State.PROBING)
        if how == "given up":
            world.caller.outbound.cancel(world.app, probe.id, world.caller.now)
        elif how == "app gone":
            world.caller.outbound.lost(world.app, world.caller.now)
        else:
            said = Fail(3, probe.id, 14, "DRAINING", "leaving", None, {"ran": "no", "instance": "n1-1"})
            world.caller.answered(world.nodes["n1"], said)
        world.caller.turn()

    assert state(world.caller, "n1-1") is State.OPEN
    node, probe, _ = world.call()
    assert (node, state(world.caller, "n1-1")) == ("n1", State.PROBING)


def test_a_probe_that_is_not_answered_in_time_is_one_that_failed() -> None:
    world = World(BREAKER)
    world.fail("n1")
    world.caller.wait(1.1)
    world.call(expires_us=int(world.caller.now * 1e6) + 200_000)
    world.caller.wait(0.3)
    world.caller.turn()

    assert state(world.caller, "n1-1") is State.OPEN
    assert world.call()[0] == "n2"


def test_a_circuit_goes_with_its_instance_and_the_probe_with_it() -> None:
    world = World(BREAKER)
    world.fail("n1")
    world.caller.wait(1.1)
    _, probe, _ = world.call()
    gone = world.nodes["n1"].keyring
    world.caller.directory.gone("n1", gone.boot)
    node, call, direct = world.call()
    assert (node, direct, circuits(world.caller).open) == ("n2", False, 0)
    world.caller.answered(world.nodes["n1"], broke(probe, "n1-1"))
    world.caller.answered(world.nodes["n2"], Reply(2, call.id, {"instance": "n2-1"}, b"ok"))

    assert repr(circuits(world.caller)) == "Circuits(open=0/1)"


@pytest.mark.parametrize("blamed", ["n2-1", "n9-1", None])
def test_an_answer_charges_only_an_instance_of_the_node_that_gave_it(blamed: str | None) -> None:
    world = World(BREAKER + ", retry: off")
    for _ in range(5):
        _, call, direct = world.call()
        assert not direct
        world.caller.answered(world.nodes["n1"], broke(call, blamed))

    assert circuits(world.caller).open == 0


def test_a_node_cannot_keep_the_next_try_away_from_another_s_instance() -> None:
    world = World("balance: round_robin")
    _, call, _ = world.call()
    said = Fail(3, call.id, 14, "DRAINING", "leaving", None, {"ran": "no", "instance": "n2-1"})
    world.caller.answered(world.nodes["n1"], said)
    (message,) = world.caller.turn()
    (flight,) = world.app.flights.values()

    assert flight.avoid == ()
    assert message.subject == world.nodes["n2"].inbox, "by turns, as ever"


def test_at_most_half_rest_and_never_the_last_one() -> None:
    world = World(BREAKER)
    world.fail("n1")
    world.fail("n2", times=9)
    assert (state(world.caller, "n1-1"), state(world.caller, "n2-1")) == (State.OPEN, State.CLOSED)

    alone = World(BREAKER, "n1")
    alone.fail("n1", times=9)
    assert circuits(alone.caller).open == 0


def test_whom_the_split_gives_no_calls_is_not_who_is_left() -> None:
    """The one instance that may be called stays the last one, however many there are beside it."""
    world = World(BREAKER + ', split: {"1": 100, "2": 0}')
    for node, version in (("n1", "1"), ("n2", "2")):
        member(world.caller, f"{node}-1").version = version
    world.fail("n1", times=9)

    assert repr(circuits(world.caller)) == "Circuits(open=0/1)"
    assert world.call()[0] == "n1"


def test_a_call_for_one_instance_is_told_when_it_will_be_called_again_and_is_not_tried_again() -> None:
    world = World(BREAKER)
    world.fail("n1")
    world.caller.now += 0.1
    tried = len(world.caller.tried)
    world.caller.call(world.app, 50, "get", instance="n1-1")

    fail = world.app.fail
    assert (fail.code, fail.reason, fail.details) == (14, "CIRCUIT_OPEN", {"instance": "n1-1"})
    assert fail.head == {"ran": "no", "retry_after_ms": 400}
    assert (world.caller.turn(), len(world.caller.tried)) == ([], tried)
    assert member(world.caller, "n1-1").inflight == 0
    world.caller.wait(0.5)
    assert world.call(instance="n1-1")[0] == "n1"
    world.caller.call(world.app, 51, "get", instance="n1-1")
    assert world.app.fail.reason == "CIRCUIT_OPEN", "one probe at a time"
    assert world.call(instance="n2-1")[0] == "n2"


def test_methods_share_circuits_but_those_with_a_word_of_their_own() -> None:
    world = World("balance: round_robin")
    world.caller.enforce(
        "kind: Service\nname: orders\naccess: {allow: [{from: [web], methods: ['*']}]}\n"
        f"traffic: {{{BREAKER}}}\nmethods: {{get: {{breaker: {{failures: 9}}}}}}\n"
    )
    world.caller.outbound.recompile()
    world.fail("n1")

    assert world.call("create")[2]
    assert not world.call("get")[2]
    assert (circuits(world.caller).open, circuits(world.caller, "get").open) == (1, 0)


def test_a_second_method_sees_at_once_what_the_first_has_learnt() -> None:
    world = World(BREAKER)
    assert not world.call("get")[2]
    world.fail("n1")
    assert {world.call("get")[0] for _ in range(4)} == {"n2"}
    world.caller.wait(1.1)
    assert world.call("create")[0] == "n1"

    assert {world.call("get")[0] for _ in range(4)} == {"n2"}, "its probe is under way"


def test_circuits_and_what_is_under_way_outlive_a_change_of_policy() -> None:
    world = World(BREAKER)
    world.fail("n1")
    world.caller.wait(1.1)
    _, probe, _ = world.call()
    world.caller.enforce(
        f"kind: Service\nname: orders\naccess: {{allow: [{{from: [web], methods: ['*']}}]}}\n"
        f"traffic: {{{BREAKER}, timeout: 1s}}\n"
    )
    world.caller.outbound.recompile()
    assert world.call()[0] == "n2"
    world.caller.answered(world.nodes["n1"], Reply(2, probe.id, {"instance": "n1-1"}, b"ok"))

    assert state(world.caller, "n1-1") is State.CLOSED


def test_what_apps_make_up_crowds_out_no_circuit_and_no_budget(one: Serving, app: App) -> None:
    caller = Caller(one)
    caller.call(app)
    kept = circuits(caller)
    for number in range(50):
        caller.outbound.call(app, Call(1, 1000 + number, f"made-up-{number}", "get", 500, "", None, b""), 0.0)

    assert list(caller.parts.circuits) == [(("orders", ""), kept)]
    assert [key for key, _ in caller.parts._budgets] == ["orders"]


def test_a_key_that_may_have_run_comes_back_to_the_same_instance_or_to_none() -> None:
    world = World("retry: {pause: 0s}")
    node, call, direct = world.call(idempotency_key="k")
    assert direct
    lost = Fail(3, call.id, 14, "OUTCOME_UNKNOWN", "lost", None, {"ran": "maybe", "instance": f"{node}-1"})
    world.caller.answered(world.nodes[node], lost)
    (message,) = world.caller.turn()
    assert message.subject == world.nodes[node].inbox
    (again,) = calls(world.nodes[node], [message])
    world.caller.directory.gone(node, world.nodes[node].keyring.boot)
    world.caller.answered(world.nodes[node], lost._replace(id=again.id))

    assert (world.app.fail.reason, (world.app.fail.head or {})["ran"]) == ("OUTCOME_UNKNOWN", "maybe")
    assert world.caller.turn() == []


def test_a_key_that_did_not_run_moves_and_one_that_is_idempotent_is_tried_elsewhere() -> None:
    for method, reason, ran in (("create", "DRAINING", "no"), ("get", "OUTCOME_UNKNOWN", "maybe")):
        world = World("retry: {pause: 0s}")
        node, call, _ = world.call(method, idempotency_key="k")
        said = Fail(3, call.id, 14, reason, "", None, {"ran": ran, "instance": f"{node}-1"})
        world.caller.answered(world.nodes[node], said)
        (message,) = world.caller.turn()

        assert message.subject != world.nodes[node].inbox
        world.caller.outbound.lost(world.app, 0.0)
        assert world.settled()


@pytest.mark.parametrize("traffic", ["breaker: off", "breaker: off, balance: round_robin"])
def test_without_a_breaker_everything_is_called_on(traffic: str) -> None:
    world = World(traffic)
    for _ in range(9):
        _, call, _ = world.call()
        world.caller.answered(world.nodes["n1"], broke(call, "n1-1"))

    assert list(world.caller.parts.circuits) == []
