"""`node.yaml`, the environment, and where things are."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bus_mesh.config import (
    Address,
    ConfigError,
    NodeConfig,
    Restart,
    changed_fields_needing_restart,
    group_id,
    home,
    load_node,
    socket_path,
    user_id,
)
from bus_mesh.policy import PolicyError
from bus_mesh.policy_files import read_policy_dir

SMALL = "mesh: shop\nnode: node-a\nbus: {url: nats://127.0.0.1:4222}\n"
WHOLE = """
mesh: shop
node: node-a
bus: {url: [nats://127.0.0.1:4222, tls://bus.example:4222]}
identity: keys
socket: run/agent.sock
http: 127.0.0.1:0
state: /var/lib/busmesh/node-a
policy_dir: ../policy
labels: {zone: eu-1, rack: 7}
apps: {web: {user: web}, orders: {token: true}, cli: {group: ops}, job: {user: 1000}}
services:
  orders:
    command: python -m shop.orders --greeting "good day"
    env: {PORT: "8080"}
    cwd: shop
    replicas: 2
    restart: on-failure
    stop_signal: SIGINT
    grace: 5s
    ready: {command: curl -f http://127.0.0.1/}
    ready_timeout: 15s
    limits: {memory: 512MiB, open_files: 1024}
  orders-eu: {command: [python, -m, shop.orders], app: orders}
epoch: {rotate_every: 30m}
drain_timeout: 10s
log: {level: debug, format: json}
"""
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "node.yaml"
        path.write_text(text)
        return path

    return write


def load(path: Path, **environ: str) -> NodeConfig:
    return load_node(path, {"BUSMESH_HOME": "/srv/mesh", **environ})


def refused(path: Path, **environ: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(path, **environ)
    return str(error.value).replace(str(path.parent), "")


def test_the_least_a_node_needs_is_mesh_node_and_bus(write: Write, tmp_path: Path) -> None:
    config = load(write(SMALL))

    assert (config.mesh, config.node, config.bus.url) == ("shop", "node-a", ("nats://127.0.0.1:4222",))
    assert config.socket == Path("/run/busmesh/agent.sock")
    assert config.http == Address("127.0.0.1", 9465)
    assert config.key_file == tmp_path / "identity" / "node.key"
    assert (config.chain_file.name, config.root_file.name) == ("node.chain", "root.pub")
    assert config.state == Path("/srv/mesh/node-a")
    assert (config.policy_dir, config.drain_timeout, config.epoch.rotate_every) == (None, 30.0, 3600.0)
    assert (config.log.level, config.log.format) == ("info", "auto")


def test_everything_written_is_taken_and_relative_paths_start_at_the_file(write: Write, tmp_path: Path) -> None:
    config = load(write(WHOLE))
    orders = config.services["orders"]

    assert config.bus.url == ("nats://127.0.0.1:4222", "tls://bus.example:4222")
    assert (config.identity, config.socket) == (tmp_path / "keys", tmp_path / "run" / "agent.sock")
    assert config.policy_dir == tmp_path / ".." / "policy"
    assert config.http == Address("127.0.0.1", 0)
    assert config.labels == {"zone": "eu-1", "rack": "7"}
    assert (config.apps["web"].user, config.apps["orders"].token, config.apps["cli"].group) == ("web", True, "ops")
    assert config.apps["job"].user == "1000"
    assert orders.command == ("python", "-m", "shop.orders", "--greeting", "good day")
    assert (orders.env, orders.cwd, orders.replicas) == ({"PORT": "8080"}, tmp_path / "shop", 2)
    assert (orders.restart, orders.stop_signal, orders.grace) == (Restart.ON_FAILURE, "SIGINT", 5.0)
    assert (orders.ready.when, orders.ready.command, orders.ready_timeout, orders.limits.given) == (
        "served",
        ("curl", "-f", "http://127.0.0.1/"),
        15.0,
        {"memory": 512 << 20, "open_files": 1024},
    )
    assert (config.app_of("orders"), config.app_of("orders-eu")) == ("orders", "orders")
    assert (config.epoch.rotate_every, config.drain_timeout, config.log.level) == (1800.0, 10.0, "debug")


def test_the_way_to_the_bus_is_files_beside_the_settings(write: Write, tmp_path: Path) -> None:
    plain = load(write(SMALL)).bus
    bus = load(write(SMALL.replace("4222}", "4222, credentials: id/bus.creds, tls: {ca: id/ca.pem}}"))).bus
    late = load(write(SMALL.replace("4222}", "4222, tls: {first: false}}"))).bus

    assert (plain.credentials, plain.tls) == (None, None)
    assert bus.credentials == tmp_path / "id" / "bus.creds"
    assert bus.tls is not None and (bus.tls.ca, bus.tls.first) == (tmp_path / "id" / "ca.pem", True)
    assert late.tls is not None and (late.tls.ca, late.tls.first) == (None, False)


def test_the_way_out_of_the_mesh_is_the_buss_own_way_but_for_its_user(write: Write, tmp_path: Path) -> None:
    mesh = SMALL.replace("4222}", "4222, credentials: a.creds, tls: {ca: ca.pem}}")
    near = load(write(f"{mesh}micro: {{credentials: out.creds}}\n"))
    far = load(write(f"{mesh}micro: {{url: 'nats://b:1'}}\n"))

    assert near.micro is not None and far.micro is not None
    way, other = near.micro.bus(near.bus), far.micro.bus(far.bus)
    assert (way.url, way.credentials, way.tls) == (near.bus.url, tmp_path / "out.creds", near.bus.tls)
    assert (other.url, other.credentials, other.tls) == (("nats://b:1",), None, None)


@pytest.mark.parametrize("inbox", ["_INBOX", "mesh.demo", "_INBOX.>", "_INBOX.a.", "_INBOX.a b", "$SYS.a"])
def test_answers_from_outside_come_to_an_inbox_and_nowhere_else(write: Write, inbox: str) -> None:
    assert "micro.inbox" in refused(write(f"{SMALL}micro: {{inbox: '{inbox}'}}\n"))


@pytest.mark.parametrize("written", ["off", "false", '"off"'])
def test_http_can_be_off(write: Write, written: str) -> None:
    assert load(write(SMALL + f"http: {written}\n")).http is None


def test_an_ipv6_address_stands_in_brackets(write: Write) -> None:
    assert load(write(SMALL + 'http: "[::1]:9465"\n')).http == Address("::1", 9465)


def test_settings_cannot_be_changed(write: Write) -> None:
    config = load(write(SMALL))

    with pytest.raises(ValueError, match="frozen"):
        config.node = "other"  # type: ignore[misc]


def test_the_environment_wins_over_the_file(write: Write) -> None:
    config = load(write(SMALL + "socket: a.sock\n"), BUSMESH_SOCKET="/tmp/b.sock", BUSMESH_HOME="/home/mesh")

    assert (config.socket, config.state) == (Path("/tmp/b.sock"), Path("/home/mesh/node-a"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sokcet: x", "/node.yaml:4: sokcet: unknown key (did you mean socket?)"),
        ("log: {levle: info}", "/node.yaml:4: log.levle: unknown key (did you mean level?)"),
        ("log: {level: inof}", "not 'inof' (did you mean info?)"),
        ("services:\n  a:\n    comand: [x]", "/node.yaml:6: services.a.comand: unknown key (did you mean command?)"),
        ("services:\n  a: {replicas: 2}", "/node.yaml:5: services.a.command: is missing"),
        ("services:\n  a: {command: []}", "/node.yaml:5: services.a.command: must not be empty"),
        ("services:\n  a: {command: 'x \"y'}", "services.a.command: not a command line"),
        ("services:\n  a: {command: x, replicas: many}", "services.a.replicas: must be a whole number, not text"),
        ("services:\n  a: {command: x, replicas: 65}", "services.a.replicas: must be less than or equal to 64"),
        ("services:\n  a: {command: x, env: {P: 8080}}", "services.a.env.P: must be text, not a number (quote it)"),
        ("services:\n  a: {command: x, stop_signal: TERM}", "'TERM' is no signal (write SIGTERM"),
        ("services:\n  a: {command: x, grace: 5}", "services.a.grace: 5 has no unit (did you mean 5s?)"),
        ("services:\n  a: {command: x, restart: alway}", "(did you mean always?)"),
        ("services:\n  busmesh: {command: x}", "/node.yaml:5: services.busmesh: busmesh is reserved"),
        ("services:\n  a: {command: x, limits: {memory: 5}}", "limits.memory: must be a number of bytes with its unit"),
        ("services:\n  a: {command: x, limits: {open_files: 3}}", "limits.open_files: must be greater than or equal"),
        ("services:\n  a: {command: x, ready: soon}", "services.a.ready.when: must be"),
        ("services:\n  a: {command: x, ready: {command: []}}", "services.a.ready.command: must not be empty"),
        ("services:\n  a: {command: x, readiness: y}", "services.a.readiness: unknown key"),
        ("apps: {web: {user: a, group: b}}", "/node.yaml:4: apps.web: needs exactly one of user, group and token"),
        ("apps: {web: {}}", "apps.web: needs exactly one of user, group and token"),
        ("apps: {web: {token: false}}", "apps.web.token: must be True, not False"),
        ("http: 9465", "/node.yaml:4: http: must be host:port, or off (write 127.0.0.1:9465)"),
        ("http: 127.0.0.1:99999", "http: must be host:port, or off"),
        ("epoch: {rotate_every: 0s}", "epoch.rotate_every: 0ms is not within 1s and 24h"),
        ("labels: {Zone: a}", "/node.yaml:4: labels.Zone: must match pattern"),
        ("state: [a]", "/node.yaml:4: state: must be a path, not a list"),
        ("mesh: shop", "/node.yaml:4: the key mesh stands twice, first on line 1"),
        ("---\nmesh: shop", "/node.yaml:1: must hold one document, not 2"),
        ("a: [", "not YAML"),
    ],
)
def test_an_error_gives_file_line_path_and_the_right_name(write: Write, text: str, told: str) -> None:
    assert told in refused(write(SMALL + text + "\n"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "/node.yaml:1: must hold one document, not 0"),
        ("- a\n", "/node.yaml:1: must be a mapping, key: value (it starts with mesh: NAME)"),
        ("mesh: shop\nbus: {url: nats://a}\n", "/node.yaml:1: node: is missing"),
        ("mesh: Shop\nnode: n\nbus: {url: nats://a}\n", "/node.yaml:1: mesh: 'Shop' is not a name"),
        (
            "mesh: s\nnode: n\nbus:\n  url: http://a\n",
            "/node.yaml:4: bus.url[0]: an address of the bus starts with nats://",
        ),
        ("mesh: s\nnode: n\nbus:\n  url: []\n", "/node.yaml:4: bus.url: must not be empty"),
        ("mesh: s\nnode: n\nbus: {url: nats://a, tls: {ka: x}}\n", "bus.tls.ka: unknown key (known here: ca, first)"),
        ("mesh: s\nnode: n\nbus: {url: nats://a, tls: {first: perhaps}}\n", "bus.tls.first: must be"),
    ],
)
def test_what_a_node_cannot_do_without_is_asked_for(write: Write, text: str, told: str) -> None:
    assert told in refused(write(text))


def test_all_that_is_wrong_is_told_at_once(write: Write) -> None:
    assert len(refused(write("mesh: S\nnode: N\nx: 1\n")).splitlines()) == 4


def test_a_password_in_an_address_is_not_repeated(write: Write) -> None:
    assert "hunter2" not in refused(write("mesh: s\nnode: n\nbus: {url: nat://u:hunter2@a}\n"))


def test_a_socket_path_that_no_socket_can_have_is_refused_with_the_way_out(write: Write) -> None:
    long = "/tmp/" + "x" * 103

    assert "/node.yaml:4: socket: 108 bytes are too many for the path of a socket, 107 at most" in refused(
        write(SMALL + f"socket: {long}\n")
    )
    assert "$BUSMESH_SOCKET" in refused(write(SMALL), BUSMESH_SOCKET=long)
    assert socket_path(Path(long[:-1])) == Path(long[:-1])
    with pytest.raises(ConfigError, match=r"\$XDG_RUNTIME_DIR"):
        socket_path(Path(long))


def test_a_file_that_is_not_there_or_no_text_is_said_so(write: Write, tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"mesh: a\nnode: \xff\n")

    assert "cannot be read: No such file or directory" in refused(tmp_path / "absent.yaml")
    assert "/binary.yaml:2: is not UTF-8 text" in refused(binary)


def test_what_needs_a_restart_is_named_and_the_rest_is_not(write: Write) -> None:
    old = load(write(WHOLE))
    new = load(write(WHOLE.replace("level: debug", "level: info").replace("replicas: 2", "replicas: 3")))
    moved = load(write(WHOLE.replace("node: node-a", "node: node-b").replace("http: 127.0.0.1:0", "http: off")))

    assert changed_fields_needing_restart(old, new) == []
    assert changed_fields_needing_restart(old, moved) == ["node", "http"]


def test_a_policy_directory_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text("kind: Service\nname: stock\n")
    (tmp_path / "a.yaml").write_text("kind: Service\nname: orders\n---\nkind: Mesh\n")
    (tmp_path / "notes.txt").write_text("not policy")
    (tmp_path / ".hidden.yaml").write_text("not: policy")

    policy = read_policy_dir(tmp_path)

    assert list(policy.services) == ["orders", "stock"]
    assert (policy.number, policy.empty) == (0, False)


def test_an_empty_policy_directory_is_no_policy(tmp_path: Path) -> None:
    assert read_policy_dir(tmp_path).empty


def test_all_files_errors_are_told_and_a_name_in_two_files_names_both(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: Service\nname: orders\nx: 1\n")
    (tmp_path / "b.yaml").write_text("kind: Service\nname: orders\ny: 1\n")
    with pytest.raises(PolicyError, match=r"(?s)a\.yaml:3: x.*b\.yaml:3: y"):
        read_policy_dir(tmp_path)

    (tmp_path / "a.yaml").write_text("kind: Service\nname: orders\n")
    (tmp_path / "b.yaml").write_text("kind: Service\nname: orders\n")
    with pytest.raises(PolicyError, match=r"b\.yaml:1: name: Service orders stands twice, first at .*a\.yaml:1"):
        read_policy_dir(tmp_path)


def test_a_policy_directory_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"cannot be read: No such file or directory \(make it, or set policy_dir"):
        read_policy_dir(tmp_path / "absent")


def test_home_is_the_flag_then_the_environment_then_the_users_state(monkeypatch: pytest.MonkeyPatch) -> None:
    assert home(Path("/a"), {"BUSMESH_HOME": "/b"}) == Path("/a")
    assert home(None, {"BUSMESH_HOME": "/b", "XDG_STATE_HOME": "/c"}) == Path("/b")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert home(None, {"XDG_STATE_HOME": "/c"}) == Path("/var/lib/busmesh")

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert home(None, {"XDG_STATE_HOME": "/c"}) == Path("/c/busmesh")
    assert home(None, {"XDG_STATE_HOME": "relative"}) == Path.home() / ".local/state/busmesh"


def test_users_and_groups_are_asked_of_the_system_when_needed() -> None:
    assert (user_id("root"), group_id("root"), user_id("1000")) == (0, 0, 1000)
    with pytest.raises(ConfigError, match="this machine has no such user"):
        user_id("nobody-of-that-name")
    with pytest.raises(ConfigError, match="this machine has no such group"):
        group_id("no-such-group")
