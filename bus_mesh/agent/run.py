"""`busmesh agent`: a node agent as a process, from its settings to its last breath.

Stops in the reverse order of its start, in one function.
"""

import asyncio
import contextlib
import gc
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bus_mesh import __version__, clock
from bus_mesh.agent.apps import Apps
from bus_mesh.agent.follow import Follow
from bus_mesh.agent.jobs import Jobs
from bus_mesh.agent.kept_policy import KeptPolicy
from bus_mesh.agent.local import claim, identify, serve
from bus_mesh.agent.node import Node
from bus_mesh.agent.presence import NodePresence
from bus_mesh.agent.receipts import ReceiptLog
from bus_mesh.agent.renewal import Renewer
from bus_mesh.agent.revocation import Revocations
from bus_mesh.agent.services import ServiceDesk
from bus_mesh.agent.supervise import Place, Standing, Supervisor
from bus_mesh.agent.world import Setting, World
from bus_mesh.bus.contract import BusState
from bus_mesh.bus.nats_bus import NatsBus
from bus_mesh.bus_access import access_of, user_ends_us
from bus_mesh.config import (
    ConfigError,
    NodeConfig,
    Traces,
    changed_fields_needing_restart,
    group_id,
    load_node,
    user_id,
)
from bus_mesh.gates.trace import Tracing
from bus_mesh.identity.keyring import Now, Own, own_identity
from bus_mesh.identity.keys import NodeKey
from bus_mesh.policy.follow import Freshness
from bus_mesh.policy.problems import DocumentError, Problem
from bus_mesh.policy_files import read_policy_dir
from bus_mesh.process.kept import Keeper
from bus_mesh.process.notify import Notifier
from bus_mesh.starts import boot_started_us
from bus_mesh.telemetry import log
from bus_mesh.telemetry.http import HttpServer
from bus_mesh.telemetry.metrics import Metrics
from bus_mesh.telemetry.spans import Exporter, NoExporter, open_exporter

_new: Final[Callable[..., Any]] = tuple.__new__  # a named tuple without the cost of its names


def read_clocks() -> Now:
    """Return all three clocks, read once."""
    now: Now = _new(Now, (clock.monotonic(), clock.boottime_ns() // 1000, clock.wall_ns() // 1000))
    return now


def own_from(config: NodeConfig) -> Own:
    """Return who this node is, from its identity directory; raise ConfigError or Untrusted with what to do."""
    try:
        key = _key(config.key_file)
        chain, root = config.chain_file.read_bytes(), config.root_file.read_bytes()
    except OSError as error:
        text = f"{error.strerror}: write this node's identity with `busmesh node add {config.node}`"
        raise _wrong(config.identity, text) from None
    own = own_identity(key, chain, config.mesh, root, clock.wall_us())
    if own.node != config.node:
        raise _wrong(config.chain_file, f"certifies node {own.node}, and node.yaml says {config.node}: make them agree")
    return own


def _key(path: Path) -> NodeKey:
    data = path.read_bytes()
    try:
        return NodeKey.from_bytes(data)
    except ValueError:
        raise _wrong(
            path, f"holds {len(data)} bytes, and a node's key is 32: restore it, or admit the node anew"
        ) from None


class Agent:
    """A running agent process: the node, and around it the bus, the socket, the pages and the services."""

    def __init__(self, config: NodeConfig, path: Path | None) -> None:
        self.config = config
        self._path = path
        self._log = log.get_logger("agent")
        self._stop = asyncio.Event()
        self._notifier = Notifier.take()
        self._node: Node | None = None
        self._supervisor: Supervisor | None = None
        self._revocations: Revocations

    async def run(self) -> int:
        """Live until SIGTERM or SIGINT; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        own, metrics, access = own_from(self.config), Metrics(__version__), access_of(self.config.bus)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._notifier.close)
            keeper = await Keeper.start()
            stack.push_async_callback(keeper.close)
            socket = claim(self.config.socket)
            stack.callback(_unlink, self.config.socket)
            stack.callback(socket.close)
            rng = random.SystemRandom()
            bus = NatsBus(self.config.bus.url, name=f"busmesh {own.node}", roll=rng.random, access=access)
            await bus.start()
            stack.push_async_callback(bus.close)
            self._supervisor = supervisor = self._supervise(keeper, rng.random)
            self._node = node = self._new_node(own, bus, supervisor, rng, metrics)
            supervisor.presence = NodePresence(node.door, node.hosting)
            ServiceDesk(supervisor, node.hosting, Jobs(node.spawn)).open(node.orders)
            self._show(metrics, node)
            if self.config.traces is not None:
                stack.push_async_callback(asyncio.to_thread, self._trace(node, self.config.traces).close)
            follow = self._policy(node, own, rng.random)
            http = self._http(metrics, node, stack)
            await self._reach(node, metrics, rng, stack)
            stack.push_async_callback(self._receipts(metrics, node).close)
            await node.start()
            stack.push_async_callback(node.stop)
            if follow is not None:
                await self._follow(node, follow, metrics)
            server = await serve(socket, lambda: node.session(identify))
            stack.callback(server.close)
            supervisor.start(self.config.services)
            _spare_the_collector()
            self._log.info("agent up", mesh=own.mesh, socket=str(self.config.socket), http=http.url if http else None)
            self._notifier.ready(f"node {own.node} of mesh {own.mesh}")
            await self._stop.wait()
            self._notifier.stopping("draining")
            self._log.info("agent leaving")
            await node.drain(self.config.drain_timeout)
            await supervisor.stop()
        return 0

    def _new_node(
        self, own: Own, bus: NatsBus, supervisor: Supervisor, rng: random.SystemRandom, metrics: Metrics
    ) -> Node:
        # As even as `randrange` for the few hundred that are ever drawn from, at half of its cost.
        draw = lambda n: int(rng.random() * n)  # noqa: E731
        world = World(read_clocks, clock.monotonic, os.urandom, draw, rng.random)
        home = os.environ.get("BUSMESH_HOME")
        started = boot_started_us(self.config.state, clock.wall_us())
        setting = Setting(dict(self.config.labels), self.config.epoch.rotate_every, home, os.getuid(), started)
        return Node(own, bus, self._apps(own, supervisor), world, setting, metrics)

    async def _reach(
        self, node: Node, metrics: Metrics, rng: random.SystemRandom, stack: contextlib.AsyncExitStack
    ) -> None:
        """Open the way to plain services of NATS, where node.yaml has one."""
        said = self.config.micro
        if said is None:
            return
        way = said.bus(self.config.bus)
        bus = NatsBus(way.url, name=f"busmesh {node.own.node} outside", roll=rng.random, access=access_of(way))
        await bus.start()
        stack.push_async_callback(bus.close)
        await node.reach(bus, said.inbox or f"_INBOX.{node.own.node}", os.urandom, lambda: user_ends_us(way))
        what = "Whether the way to plain services of NATS is connected."
        metrics.gauge("outside_bus_connected", what, lambda: bus.state is BusState.CONNECTED)

    # Settings and policy.

    def _supervise(self, keeper: Keeper, jitter: Callable[[], float]) -> Supervisor:
        place = Place(self.config.socket, self.config.node, self.config.state / "log", stamp=True)
        return Supervisor(keeper, place, jitter=jitter, changed=self._told)

    def _apps(self, own: Own, supervisor: Supervisor) -> Apps:
        granted = own.certificate.call_as | own.certificate.serve
        return Apps(self.config.apps, granted, os.getuid(), user_id, group_id, supervisor.admits)

    def _reload(self) -> None:
        """Take up node.yaml and policy again; what is wrong in them is said, and what was in force stays."""
        assert self._node is not None
        self._notifier.reloading()
        self._take_up()
        self._load_policy(self._node)
        self._notifier.ready("settings and policy were read again")

    def _take_up(self) -> None:
        if self._path is not None:
            try:
                new = load_node(self._path)
            except DocumentError as error:
                self._log.error("node.yaml not taken up; the old settings stay", problems=str(error))
                return
            fixed = changed_fields_needing_restart(self.config, new)
            if fixed:
                self._log.warning("these settings need a restart of the agent", fields=fixed)
            kept = {field: getattr(self.config, field) for field in fixed}
            before, self.config = self.config.services, new.model_copy(update=kept)
            log.configure(self.config.log.level, self.config.log.format, node=self.config.node)
            assert self._supervisor is not None
            assert self._node is not None
            self._node.apps = self._apps(self._node.own, self._supervisor)
            self._node.spawn(self._supervisor.take_up(before, self.config.services, self._taken_up))

    def _policy(self, node: Node, own: Own, jitter: Callable[[], float]) -> Follow | None:
        """Begin to follow the control plane, or read `policy_dir:` where node.yaml names one."""
        self._revocations = out = Revocations(node, self.config.state / "revoked.yaml")
        node.orders.revoked = lambda operator: operator in out.said.operators
        if self.config.policy_dir is not None:
            self._revocations.start()
            self._load_policy(node)
            return None
        kept = KeptPolicy(self.config.state / "policy")
        work = node.enforce, node.spawn, self._revocations
        follow = Follow(own, node.control, node.watch, kept, read_clocks, jitter, *work)
        follow.start()
        node.every_second.append(follow.look)
        node.freshness = lambda: follow.freshness
        states = {state.value: 0.0 for state in Freshness}
        node.metrics.gauge(
            "policy_state",
            "How sure it is that the policy in force is the newest: 1 for what it is.",
            lambda: {**states, follow.freshness.value: 1.0},
            label="state",
        )
        node.metrics.gauge(
            "policy_age_seconds",
            "Seconds since the policy agent said that what is in force is the newest.",
            lambda: follow.follower.age(node.now()),
        )
        node.metrics.gauge("policy_refused_total", "Heads and bundles refused.", lambda: follow.refused, kind="counter")
        node.metrics.gauge("policy_forks_total", "Two bundles of one number.", lambda: follow.forks, kind="counter")
        return follow

    async def _follow(self, node: Node, follow: Follow, metrics: Metrics) -> None:
        """Hear the policy agent from now on, and have it renew the certificate when that is due."""
        await node.bus.subscribe(node.subjects.policy, follow.on_policy)
        node.bus.on_state(lambda state: follow.greet() if state is BusState.CONNECTED else None)
        follow.greet()
        node.spawn(self._renewer(metrics, node).run())

    def _load_policy(self, node: Node) -> None:
        if self.config.policy_dir is None:
            return
        try:
            policy = read_policy_dir(self.config.policy_dir)
        except DocumentError as error:
            self._log.error("policy not taken up; what was in force stays", problems=str(error))
            return
        self._revocations.add(policy.revocation)
        node.enforce(policy)
        self._log.info("policy in force", services=len(policy.services), directory=str(self.config.policy_dir))

    # What is shown.

    def _http(self, metrics: Metrics, node: Node, stack: contextlib.AsyncExitStack) -> HttpServer | None:
        if self.config.http is None:
            return None
        server = HttpServer(self.config.http.host, self.config.http.port, metrics, lambda: _ready(node))
        stack.callback(server.close)
        return server

    def _show(self, metrics: Metrics, node: Node) -> None:
        bus = node.bus
        metrics.gauge("bus_connected", "Whether the bus is connected.", lambda: bus.state is BusState.CONNECTED)
        metrics.gauge("bus_rtt_seconds", "Seconds to the broker and back.", lambda: bus.rtt)
        metrics.gauge("bus_reconnects_total", "Times the bus came back.", lambda: bus.reconnects, kind="counter")
        metrics.gauge("bus_slow_consumers_total", "Messages lost here.", lambda: bus.slow_consumers, kind="counter")
        metrics.gauge("policy_number", "Number of the policy in force.", lambda: node.access.number)
        metrics.gauge("sessions", "Local connections.", lambda: len(node.door.sessions))
        metrics.gauge("known_instances", "Instances in the directory.", lambda: node.directory.instances)

    def _trace(self, node: Node, traces: Traces) -> Exporter:
        """Have calls traced from now on; what is returned sends the spans."""
        resource = {"service.name": "busmesh", "service.instance.id": node.own.node, "service.version": __version__}
        try:
            exporter = open_exporter(traces.otlp, resource)
        except NoExporter as error:
            raise _wrong(self._path or Path("node.yaml"), f"traces: {error}") from None
        node.trace(Tracing(traces.sample, exporter.record, os.urandom, random.random, lambda: clock.wall_us() / 1e6))
        return exporter

    def _receipts(self, metrics: Metrics, node: Node) -> ReceiptLog:
        log = ReceiptLog(self.config.state / "receipts")
        node.outbox.receipts.keep = log.put
        metrics.gauge("receipts_dropped_total", "Receipts not written.", lambda: log.dropped, kind="counter")
        return log

    def _renewer(self, metrics: Metrics, node: Node) -> Renewer:
        jitter, credentials = random.SystemRandom().random, self.config.bus.credentials
        made = Renewer(node, self.config.identity, credentials, read_clocks, os.urandom, jitter)
        metrics.gauge("certificate_renewals_total", "Certificates renewed.", lambda: made.renewals, kind="counter")
        metrics.gauge(
            "certificate_expires_seconds",
            "When this node's certificate ends, in seconds since 1970.",
            lambda: node.own.certificate.not_after_us / 1e6,
        )
        return made

    def _taken_up(self, line: str) -> None:
        self._log.info("services", said=line)

    def _told(self, standing: Standing) -> None:
        self._log.info("service process", **standing._asdict())


def run_agent(config: NodeConfig, path: Path | None = None) -> int:
    """Run a node agent until SIGTERM; `path` is where SIGHUP reads the settings again. Returns the exit code."""
    log.configure(config.log.level, config.log.format, node=config.node)
    agent = Agent(config, path)
    try:
        import uvloop
    except ImportError:
        return asyncio.run(agent.run())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(agent.run())


def _ready(node: Node) -> tuple[bool, dict[str, object]]:
    """Return whether this agent can pass calls on, and what it lacks."""
    status = node.status()
    leaving = bool(status["draining"] or status["revoked"])
    return status["bus"] == BusState.CONNECTED.value and bool(status["policy_loaded"]) and not leaving, status


def _wrong(path: Path, message: str) -> ConfigError:
    return ConfigError([Problem(str(path), 0, "", message)])


def _spare_the_collector() -> None:
    """Keep the garbage collector from what lives for ever, and from calls that are merely under way."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _unlink(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
