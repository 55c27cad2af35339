"""`node.yaml` and the environment, as frozen settings with their units; and where things are on this machine.

    mesh: shop                                # required: mesh, node, bus
    node: node-a
    bus:
      url: tls://bus.example:4222             # one address or a list
      credentials: identity/bus.creds
      tls: {ca: identity/ca.pem, first: true}
    identity: identity                        # a directory: node.key (0600), node.chain, root.pub
    socket: /run/busmesh/agent.sock
    http: 127.0.0.1:9465                      # port 0 takes a free one; off
    state: /var/lib/busmesh/node-a
    policy_dir: policy                        # *.yaml and *.yml in it
    labels: {zone: eu-1}
    apps: {web: {user: web}, orders: {token: true}, cli: {group: ops}}
    services:
      orders: {command: python -m shop.orders, replicas: 2, restart: always, grace: 10s}
      till: {command: python -m shop.till, ready: started, limits: {memory: 256MiB, open_files: 512}}
    micro: {credentials: identity/outside.creds}   # apps call plain services of NATS, micro:NAME
    epoch: {rotate_every: 1h}
    drain_timeout: 30s
    log: {level: info, format: auto}
    traces: {otlp: "http://127.0.0.1:4318", sample: 0.01}

Relative paths start at the file. The environment wins over the file: BUSMESH_SOCKET for `socket`, BUSMESH_HOME for the
directory in which `state` is made when the file names none. Positions come from the reader that policy uses.
"""

import grp
import os
import pwd
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from bus_mesh.policy.models import Document, Name, ServiceName
from bus_mesh.policy.problems import DocumentError, Problem, explain, refuse
from bus_mesh.policy.units import Duration, seconds_within
from bus_mesh.policy.yaml_lines import Read, YamlError, read
from bus_mesh.programs import Limits, PlacedPath, Principal, Program, Ready, Restart, as_text

__all__ = [
    "DEFAULT_SOCKET",
    "Address",
    "App",
    "Bus",
    "BusTls",
    "ConfigError",
    "Epoch",
    "Limits",
    "Log",
    "Micro",
    "NodeConfig",
    "PlacedPath",
    "Program",
    "Ready",
    "Restart",
    "changed_fields_needing_restart",
    "group_id",
    "home",
    "load",
    "load_node",
    "read_address",
    "read_text",
    "socket_path",
    "unreadable",
    "user_id",
]

DEFAULT_SOCKET: Final = Path("/run/busmesh/agent.sock")
MAX_SOCKET_PATH: Final = 107
"""Bytes of a Unix socket's path (sun_path in unix(7), less its NUL)."""
MAX_FILE: Final = 4 * 1024 * 1024
"""Bytes of a file of documents."""
NEEDS_RESTART: Final = frozenset(
    ("mesh", "node", "bus", "identity", "socket", "http", "state", "labels", "epoch", "traces", "micro")
)
"""What an agent takes up once, when it starts; the rest follows SIGHUP."""


D = TypeVar("D", bound=Document)


class ConfigError(DocumentError):
    """The settings cannot be taken; `problems` says why and where."""


class Address(NamedTuple):
    """Where to listen; port 0 takes a free one."""

    host: str
    port: int


def _listed(written: object) -> object:
    return [written] if isinstance(written, str) else written


def _short(path: Path) -> Path:
    if (size := len(os.fsencode(path))) > MAX_SOCKET_PATH:
        raise refuse(
            f"{size} bytes are too many for the path of a socket, {MAX_SOCKET_PATH} at most",
            "use a shorter directory, such as one under /run or $XDG_RUNTIME_DIR",
        )
    return path


def read_address(written: object) -> object:
    """Return host:port as an Address, None for `off`; for pydantic to call."""
    if written == "off" or written is False:
        return None
    host, colon, port = written.rpartition(":") if isinstance(written, str) else ("", "", "")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise refuse("must be host:port, or off", "write 127.0.0.1:9465")
    return Address(host.strip("[]"), int(port))


def _bus_url(url: str) -> str:
    if not url.startswith(("nats://", "tls://")):
        raise refuse("an address of the bus starts with nats:// or tls://", "write nats://127.0.0.1:4222")
    return url


SocketPath = Annotated[PlacedPath, AfterValidator(_short)]
Label = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}\z")]
LabelValue = Annotated[str, BeforeValidator(as_text), Field(max_length=128)]


class BusTls(Document):
    """How the broker is known: TLS 1.3, and by which authority."""

    ca: PlacedPath | None = None
    """A PEM file with the authorities that are trusted for the bus, and no others; None: the system's."""
    first: bool = True
    """TLS before the broker says a word, `handshake_first` in its configuration; both ends must agree."""


class Bus(Document):
    """Where the bus is, and how to get in."""

    url: Annotated[tuple[Annotated[str, AfterValidator(_bus_url)], ...], BeforeValidator(_listed)] = Field(min_length=1)
    credentials: PlacedPath | None = None
    """A file with this node's user JWT and seed (`*.creds`), read again for every connection."""
    tls: BusTls | None = None


class Micro(Document):
    """The way to plain services of NATS, which are no part of the mesh: a connection and a user of its own."""

    url: Annotated[tuple[Annotated[str, AfterValidator(_bus_url)], ...], BeforeValidator(_listed)] | None = None
    """None: where the mesh's bus is."""
    credentials: PlacedPath | None = None
    """Never those of `bus`: what an agent may do in the mesh is none of plain services' business."""
    tls: BusTls | None = None
    """None: as with the mesh's bus, where that is where they are."""
    inbox: Annotated[str, Field(pattern=r"^_INBOX(\.[A-Za-z0-9_-]{1,64}){1,4}\z")] | None = None
    """What subjects begin with on which its user may hear answers; None: `_INBOX.<node>`."""

    def bus(self, mesh: Bus) -> Bus:
        """Return the settings of this connection."""
        near = self.url is None
        return Bus(url=self.url or mesh.url, credentials=self.credentials, tls=self.tls or (mesh.tls if near else None))


class App(Document):
    """Who may speak as an app: a user, a group, or whoever holds a token that this agent handed to its child."""

    user: Principal | None = None
    group: Principal | None = None
    token: Literal[True] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(way is not None for way in (self.user, self.group, self.token)) != 1:
            raise refuse(
                "needs exactly one of user, group and token", "write {user: web}, {group: ops} or {token: true}"
            )
        return self


class Epoch(Document):
    """How long an epoch key is used."""

    rotate_every: Annotated[float, seconds_within(1.0, 86400.0)] = 3600.0
    """Seconds until the next key, 1s to 24h."""


class Log(Document):
    """What is written to stderr, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console", "auto"] = "auto"


class Traces(Document):
    """Where spans of calls go, and how many of them."""

    otlp: Annotated[str, Field(pattern=r"^https?://[^\s/]+(/\S*)?\z")]
    """A collector that takes OTLP over HTTP, like http://127.0.0.1:4318."""
    sample: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01
    """The share of the traces that begin at this node; those that come are sampled or not already."""


class NodeConfig(Document):
    """The settings of one node; paths are absolute if the file's is."""

    mesh: Name
    node: Name
    bus: Bus
    identity: PlacedPath = Field(default=Path("identity"), validate_default=True)
    """A directory with node.key, node.chain and root.pub."""
    socket: SocketPath = Field(default=DEFAULT_SOCKET, validate_default=True)
    http: Annotated[Address | None, BeforeValidator(read_address)] = Address("127.0.0.1", 9465)
    state: PlacedPath
    """A directory for what outlives the agent; `<home>/<node>` if the file names none."""
    policy_dir: PlacedPath | None = None
    labels: Mapping[Label, LabelValue] = {}
    apps: Mapping[ServiceName, App] = {}
    services: Mapping[ServiceName, Program] = {}
    epoch: Epoch = Epoch()
    drain_timeout: Duration = 30.0
    """Seconds that calls in progress have to end before the agent leaves."""
    log: Log = Log()
    traces: Traces | None = None
    micro: Micro | None = None

    @property
    def key_file(self) -> Path:
        """The node's Ed25519 private key."""
        return self.identity / "node.key"

    @property
    def chain_file(self) -> Path:
        """The node's certificate, and what leads from it to the root."""
        return self.identity / "node.chain"

    @property
    def root_file(self) -> Path:
        """The public key that all trust comes from."""
        return self.identity / "root.pub"

    def app_of(self, service: str) -> str:
        """Return the app that the program of this name speaks as."""
        return self.services[service].app or service


def load_node(path: Path, environ: Mapping[str, str] | None = None) -> NodeConfig:
    """Return the settings of a `node.yaml`; raise ConfigError with everything that is wrong in it."""
    environ = os.environ if environ is None else environ

    def complete(written: dict[str, Any]) -> None:
        if socket := environ.get("BUSMESH_SOCKET"):
            written["socket"] = str(socket_path(Path(socket).absolute(), "$BUSMESH_SOCKET"))
        if written.get("state") is None:
            written["state"] = str(home(environ=environ) / str(written.get("node", "")))

    return load(path, NodeConfig, complete)


def load(path: Path, model: type[D], complete: Callable[[dict[str, Any]], None] = lambda written: None) -> D:
    """Return the settings of a file that holds one document; raise ConfigError with everything that is wrong in it.

    `complete` may change what was written before it is checked.
    """
    source, part = str(path), _only_document(path)
    if not isinstance(part.value, dict):
        raise ConfigError(
            [Problem(source, part.spot.line, "", "must be a mapping, key: value", "it starts with mesh: NAME")]
        )
    written: dict[str, Any] = dict(part.value)
    complete(written)
    try:
        return model.model_validate(written, context={"base": path.absolute().parent})
    except ValidationError as error:
        raise ConfigError(explain(error, model, part.spot, source)) from None


def changed_fields_needing_restart(old: NodeConfig, new: NodeConfig) -> list[str]:
    """Return the fields that differ and that a running agent cannot take up."""
    changed = [
        field
        for field in type(old).model_fields
        if field in NEEDS_RESTART and getattr(old, field) != getattr(new, field)
    ]
    # Another directory is taken up; files instead of the policy agent, or the other way round, needs another start.
    source = (old.policy_dir is None) != (new.policy_dir is None)
    return [*changed, "policy_dir"] if source else changed


def home(flag: Path | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """Return this user's directory: the flag, $BUSMESH_HOME, $XDG_STATE_HOME/busmesh; root's is /var/lib/busmesh."""
    environ = os.environ if environ is None else environ
    if flag is not None:
        return flag.absolute()
    if chosen := environ.get("BUSMESH_HOME"):
        return Path(chosen).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/busmesh")
    state = environ.get("XDG_STATE_HOME")
    # The XDG base directory specification: a relative path there is to be ignored.
    base = Path(state) if state and Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "busmesh"


def socket_path(path: Path, source: str = "--socket") -> Path:
    """Return the path if a Unix socket can have it; raise ConfigError with the length, the limit and the way out."""
    try:
        return _short(path)
    except PydanticCustomError as error:
        said = error.context or {}
        raise ConfigError([Problem(source, 0, str(path), said["message"], said["hint"])]) from None


def user_id(name: str) -> int:
    """Return the number of a user, asked of the system now; raise ConfigError if it has no such user."""
    try:
        return int(name) if name.isascii() and name.isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigError([_nobody("user", name)]) from None


def group_id(name: str) -> int:
    """Return the number of a group, asked of the system now; raise ConfigError if it has no such group."""
    try:
        return int(name) if name.isascii() and name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError([_nobody("group", name)]) from None


def _nobody(kind: str, name: str) -> Problem:
    return Problem("apps", 0, name, f"this machine has no such {kind}", f"make it, or name another {kind} in node.yaml")


def _only_document(path: Path) -> Read:
    try:
        parts = read(read_text(path))
    except YamlError as error:
        raise ConfigError([Problem(str(path), error.line, "", error.message, error.hint)]) from None
    if len(parts) != 1:
        raise ConfigError([Problem(str(path), 1, "", f"must hold one document, not {len(parts)}")])
    return parts[0]


def read_text(path: Path) -> str:
    """Return what a file of documents holds; raise ConfigError saying why not."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError([unreadable(path, error, "")]) from None
    if len(data) > MAX_FILE:
        raise ConfigError([Problem(str(path), 0, "", f"over {MAX_FILE} bytes", "split it")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(str(path), line, "", "is not UTF-8 text")]) from None


def unreadable(path: Path, error: OSError, hint: str) -> Problem:
    """Return the problem that a file cannot be read."""
    return Problem(str(path), 0, "", f"cannot be read: {error.strerror}", hint)
