"""`busmesh policy-agent`: a policy agent as a process, from its settings to its last breath.

One at a time is in office: whoever holds the lock beside the store. A second one waits on it, and takes over as soon as
the first is gone, however it went.

    STANDBY ──the lock is free──▶ IN_OFFICE ──SIGTERM──▶ gone
"""

import asyncio
import contextlib
import fcntl
import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final

from bus_mesh import __version__, clock
from bus_mesh.bus.contract import BusState
from bus_mesh.bus.nats_bus import NatsBus
from bus_mesh.bus_access import access_of
from bus_mesh.config import ConfigError
from bus_mesh.control.admission import Admission, Issuer, Way
from bus_mesh.control.desk import Desk
from bus_mesh.control.nats_authority import Users
from bus_mesh.control.nats_jwt import BadToken, account_of
from bus_mesh.control.office import Office, Signer
from bus_mesh.control.settings import PolicyAgentConfig
from bus_mesh.control.store import Store
from bus_mesh.identity.certificate import Role, verify_delegation
from bus_mesh.identity.keyring import Keyring, Now, Own, own_identity
from bus_mesh.identity.keys import NodeKey
from bus_mesh.identity.nkeys import BadNkey, Kind, Nkey
from bus_mesh.policy.problems import Problem
from bus_mesh.policy_files import read_texts
from bus_mesh.process.notify import Notifier
from bus_mesh.starts import boot_started_us
from bus_mesh.telemetry import log
from bus_mesh.telemetry.http import HttpServer
from bus_mesh.telemetry.metrics import Metrics

LOOK_SECONDS: Final = 0.25
"""Between two attempts at the lock."""


def read_clocks() -> Now:
    """Return all three clocks, read once."""
    return Now(clock.monotonic(), clock.boottime_ns() // 1000, clock.wall_us())


class PolicyAgent:
    """A policy agent process."""

    def __init__(self, config: PolicyAgentConfig) -> None:
        self._config = config
        self._log = log.get_logger("policy-agent")
        self._stop = asyncio.Event()
        self._office: Office | None = None

    async def run(self) -> int:
        """Live until SIGTERM or SIGINT; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        own, metrics = own_from(self._config), Metrics(__version__)
        signer, issuer, way = signer_from(self._config, own), issuer_from(self._config, own), way_from(self._config)
        notifier = Notifier.take()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(notifier.close)
            roll = random.SystemRandom().random
            access = access_of(self._config.bus)
            bus = NatsBus(self._config.bus.url, name=f"busmesh policy {own.node}", roll=roll, access=access)
            await bus.start()
            stack.push_async_callback(bus.close)
            notifier.ready("waiting for the lock of the store")  # who stands by is up: it takes over by itself
            if not await self._locked(stack):
                return 0
            http = self._http(metrics, bus)  # not before: who stands by may be told to listen on the same port
            if http is not None:
                stack.callback(http.close)
            work = stack.enter_context(ThreadPoolExecutor(1, "desk"))
            desk = await loop.run_in_executor(work, self._desk, own, issuer, way)
            started = boot_started_us(self._config.state, clock.wall_us())
            keyring = Keyring(own, os.urandom(8).hex(), os.urandom, read_clocks(), boot_started_us=started)
            self._office = office = Office(own, keyring, bus, desk, signer, read_clocks, work)
            self._show(metrics, office, desk.admission)
            await office.start()
            stack.push_async_callback(office.stop)
            self._log.info("policy agent in office", mesh=own.mesh, number=office.number, store=str(self._config.store))
            notifier.ready("in office")
            await self._stop.wait()
            notifier.stopping("leaving")
            self._log.info("policy agent leaving")
        return 0

    async def _locked(self, stack: contextlib.AsyncExitStack) -> bool:
        """Wait until this process alone has the store; False when it is told to stop before."""
        self._config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = stack.enter_context((self._config.state / "lock").open("a+"))
        told = False
        while not self._stop.is_set():
            if _lock(file):
                return True
            if not told:
                told = True
                self._log.info("standing by: another policy agent is in office", store=str(self._config.store))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), LOOK_SECONDS)
        return False

    def _desk(self, own: Own, issuer: Issuer | None, way: Way) -> Desk:
        """Open the store, in the one thread that uses it, and make its first bundle where it has none."""
        store = Store(self._config.store)
        admission = None if issuer is None else Admission(store, own.mesh, own.root, issuer, way, os.urandom)
        desk = Desk(store, own.mesh, own.root, own.node, admission, clock.wall_us())
        if desk.bundle is None:
            texts = {} if self._config.initial is None else read_texts(self._config.initial)
            desk.start_with({name: text.encode() for name, text in texts.items()}, clock.wall_us())
        return desk

    def _http(self, metrics: Metrics, bus: NatsBus) -> HttpServer | None:
        address = self._config.http

        def ready() -> tuple[bool, dict[str, object]]:
            office = self._office
            said: dict[str, object] = {
                "node": self._config.node,
                "mesh": self._config.mesh,
                "version": __version__,
                "bus": bus.state.value,
                "office": "standby" if office is None else "in office",
                "policy": 0 if office is None else office.number,
            }
            trouble = "" if office is None else office.trouble
            return bus.state is BusState.CONNECTED and not trouble, {**said, "trouble": trouble}

        return None if address is None else HttpServer(address.host, address.port, metrics, ready)

    def _show(self, metrics: Metrics, office: Office, admission: Admission | None) -> None:
        if admission is not None:
            what = "Tokens and serials used by a second holder."
            metrics.gauge("admission_alarms_total", what, lambda: admission.alarms, kind="counter")
        metrics.gauge("policy_number", "Number of the bundle in force.", lambda: office.number)
        metrics.gauge("policy_alarms_total", "Heads of another policy agent.", lambda: office.alarms, kind="counter")
        metrics.gauge(
            "policy_requests_dropped_total",
            "Requests that were not believed.",
            lambda: {**office.dropped},
            kind="counter",
            label="reason",
        )


def own_from(config: PolicyAgentConfig) -> Own:
    """Return which node this policy agent is; raise ConfigError or Untrusted with what to do."""
    folder = config.identity
    key = _private(folder / "node.key")
    chain, root = _file(folder / "node.chain"), _file(folder / "root.pub")
    own = own_identity(key, chain, config.mesh, root, clock.wall_us())
    if own.node != config.node:
        raise _wrong(folder, f"certifies node {own.node}, and policy.yaml says {config.node}: make them agree")
    return own


def signer_from(config: PolicyAgentConfig, own: Own) -> Signer:
    """Return the policy signer's key and delegation; raise ConfigError or Untrusted with what to do."""
    key, delegation = _private(config.signer / "policy.key"), _file(config.signer / "policy.delegation")
    said = verify_delegation(delegation, own.mesh, own.root, clock.wall_us(), Role.POLICY)
    if said.key != key.public:
        raise _wrong(config.signer, "policy.delegation is for another key than policy.key: restore the pair")
    return Signer(key, delegation, said.term, min(said.not_after_us, own.certificate.not_after_us))


def issuer_from(config: PolicyAgentConfig, own: Own) -> Issuer | None:
    """Return the issuer's key and delegation, None where it is kept elsewhere; raise ConfigError or Untrusted."""
    if config.issuer is None:
        return None
    key, delegation = _private(config.issuer / "issuer.key"), _file(config.issuer / "issuer.delegation")
    if verify_delegation(delegation, own.mesh, own.root, clock.wall_us(), Role.ISSUER).key != key.public:
        raise _wrong(config.issuer, "issuer.delegation is for another key than issuer.key: restore the pair")
    return Issuer(key, delegation)


def way_from(config: PolicyAgentConfig) -> Way:
    """Return how those who are let in come to the bus; raise ConfigError with what to do."""
    tls, users = config.bus.tls, None
    ca = "" if tls is None or tls.ca is None else _file(tls.ca).decode(errors="replace")
    if config.users is not None:
        seed = _file(config.users / "account_signing.seed").decode(errors="replace")
        token = _file(config.users / "account.jwt").decode(errors="replace")
        try:
            signing = Nkey.from_seed(seed, Kind.ACCOUNT)
            users = Users(account=account_of(token, signing.public), account_signing=signing)
        except (BadNkey, BadToken) as error:
            raise _wrong(config.users, f"{error}; copy both files from the home, nats/") from None
    return Way(config.bus.url, ca, tls is None or tls.first, users)


def _private(path: Path) -> NodeKey:
    data = _file(path)
    try:
        return NodeKey.from_bytes(data)
    except ValueError:
        raise _wrong(path, f"holds {len(data)} bytes, and a private key is 32: restore it") from None


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _wrong(path, f"{error.strerror}: write it with `busmesh node add` and `busmesh init`") from None


def _wrong(path: Path, message: str) -> ConfigError:
    return ConfigError([Problem(str(path), 0, "", message)])


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def run_policy_agent(config: PolicyAgentConfig) -> int:
    """Run a policy agent until SIGTERM; return the exit code."""
    log.configure(config.log.level, config.log.format, node=config.node)
    return asyncio.run(PolicyAgent(config).run())
