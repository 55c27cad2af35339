"""All commands as one: JSON that stays, exit codes, and nothing but text where nobody looks at a terminal."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from test_up import BUSMESH, Up

from bus_mesh.cli.main import app

pytestmark = pytest.mark.timeout(60)
ORDER = ("orders", "get", '{"id": "1"}')
JSON: dict[tuple[str, ...], set[str]] = {
    ("get", "nodes"): {"node", "state", "version", "services", "age_ms", "boot", "cert_expires_us"},
    ("get", "services"): {"service", "instances", "nodes", "methods"},
    ("get", "instances"): {"instance", "service", "node", "version", "state", "load", "labels"},
    ("get", "methods"): {"service", "name", "idempotent", "timeout_ms", "schema"},
    ("get", "policies"): {"document", "bundle", "hash"},
    ("describe", "service", "orders"): {"service", "node", "policy", "instances"},
    ("describe", "method", "orders/get"): {"service", "name", "node", "schema", "parameters", "result", "timeout_ms"},
    ("describe", "node", "node-b"): {"node", "status", "denied", "dropped", "instances"},
    ("status",): {"agent", "policy", "why", "nodes"},
    ("stat",): {"service", "ready", "instances", "success", "actual", "rps", "p50_s", "p99_s", "inflight", "retries"},
    ("edges",): {"from", "to", "success", "rps", "p99_s", "secured"},
    ("top", "--once"): {"service", "method", "from", "success", "rps", "p99_s"},
    ("tap", "orders", "--most", "1"): {"at", "from", "service", "method", "instance", "code", "took_ms", "tries"},
    ("check",): {"group", "what", "mark", "why", "hint"},
    ("service", "list"): {"node", "service", "replica", "phase", "pid"},
    ("policy", "history"): {"number"},
    ("policy", "get"): {"document", "yaml", "content"},
    ("version",): {"version"},
    ("access", "check", "web", "orders/get"): {"allowed", "number"},
    ("node", "list"): {"node"},
    ("call", *ORDER): {"id"},
    ("bench", *ORDER, "--calls", "10"): {"calls"},
}
MADE: dict[tuple[str, ...], set[str]] = {
    ("init", "--mesh", "demo"): {"mesh", "home"},
    ("operator", "add", "eve", "--may", "policy", "--out", "eve"): {"operator", "key"},
    ("nats", "config", "--out", "server"): {"configuration", "address"},
    ("node", "add", "node-a", "--serve", "orders"): {"node", "config"},
    ("nats", "client", "reports", "--out", "reports.creds"): {"client", "credentials", "inbox"},
}
"""What makes files, in the order in which a person would."""
CHANGED: dict[tuple[str, ...], tuple[int, set[str]]] = {
    ("token", "create", "node-z"): (0, {"node", "token", "ttl_s"}),
    ("policy", "diff", "-f", "FILE"): (1, {"document", "diff"}),
    ("policy", "apply", "-f", "FILE", "--wait"): (0, {"number", "changed", "reached", "warnings", "went_back_by"}),
    ("policy", "apply", "-f", "FILE", "--dry-run"): (0, {"number", "changed", "in_force"}),
    ("policy", "rollback"): (0, {"number", "changed", "reached"}),
    ("node", "revoke", "node-z"): (0, {"number", "changed", "reached"}),
    ("operator", "revoke", "eve"): (0, {"number", "changed", "reached"}),
}
"""What changes the mesh: its exit code, and what its JSON holds."""
NO_RESULT = {("agent",), ("policy-agent",), ("run",)}
"""What stays until it is stopped, and has its say in its log, or is another program."""
WRONG: dict[tuple[str, ...], str] = {
    ("get", "ghosts"): "ghosts",
    ("describe", "service", "a.b"): "not a service name",
    ("describe", "method", "orders"): "SVC/METHOD",
    ("stat", "--window", "soon"): "not a time",
    ("top", "--most", "0"): "--most is 0",
    ("tap",): "service",
    ("service", "scale", "orders"): "replicas",
    ("call", "orders"): "METHOD",
    ("bench", *ORDER, "--calls", "0"): "--calls",
    ("policy", "apply"): "-f",
    ("nats", "client", "x"): "--out",
    ("check", "-o", "xml"): "xml",
    ("check", "--timeout", "5"): "not a time",
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("shop") / "home", "--demo") as up:
        yield up


def first(said: Any) -> dict[str, Any]:
    """One row of what was printed, whether that is a row, some, or rows by name."""
    row = said[0] if isinstance(said, list) else said
    assert isinstance(row, dict)
    return row


@pytest.mark.parametrize(
    ("command", "keys"), JSON.items(), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_json_is_json_and_has_its_keys(shop: Up, command: tuple[str, ...], keys: set[str]) -> None:
    done = shop.busmesh(*command, "-o", "json")

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines
    for line in lines if len(lines) > 1 and line_is_json(lines[0]) else [done.stdout]:
        assert keys <= first(json.loads(line)).keys()
    assert "\x1b" not in done.stdout + done.stderr


def line_is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def test_what_makes_files_says_which_in_json(tmp_path: Path) -> None:
    environment = {**os.environ, "BUSMESH_HOME": str(tmp_path / "home")}
    for command, keys in MADE.items():
        words = [*BUSMESH, *command, "-o", "json"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, env=environment, cwd=tmp_path)

        assert done.returncode == 0, done.stderr
        row = json.loads(done.stdout)
        assert row.keys() == keys
        for path in keys & {"home", "key", "configuration", "config", "credentials"}:
            assert (tmp_path / row[path]).exists()


def test_what_changes_the_mesh_says_in_json_what_it_came_to(shop: Up, tmp_path: Path) -> None:
    file = tmp_path / "till.yaml"
    file.write_text("kind: Service\nname: till\naccess: {allow: [{from: [web], methods: [ring]}]}\n")
    for command, (code, keys) in CHANGED.items():
        words = [str(file) if word == "FILE" else word for word in command]
        done = shop.busmesh(*words, "-o", "json")

        assert done.returncode == code, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(rows) == 1
        assert keys <= rows[0].keys()
        if "--wait" in command:
            assert sorted(rows[0]["reached"]["applied"]) == ["node-a", "node-b"]
            assert rows[0]["changed"] == {"Service/till": "added"}


@pytest.mark.parametrize("command", [("get", "nodes"), ("get", "methods"), ("stat",)], ids=" ".join)
def test_yaml_says_what_json_says(shop: Up, command: tuple[str, ...]) -> None:
    done = shop.busmesh(*command, "-o", "yaml")

    assert done.returncode == 0, done.stderr
    assert JSON[command] <= first(yaml.safe_load(done.stdout)).keys()


@pytest.mark.parametrize(
    ("command", "why"), WRONG.items(), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(command: tuple[str, ...], why: str, tmp_path: Path) -> None:
    environment = {**os.environ, "BUSMESH_HOME": str(tmp_path)}
    done = subprocess.run([*BUSMESH, *command], capture_output=True, text=True, timeout=30, env=environment)

    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert why in done.stderr


def test_exit_codes_tell_what_happened(shop: Up) -> None:
    assert shop.busmesh("call", *ORDER).returncode == 0
    assert shop.busmesh("call", "orders", "get", '{"id": 7}').returncode == 64 + 3
    assert shop.busmesh("call", "ghosts", "get", "{}").returncode == 64 + 7
    assert shop.busmesh("access", "check", "nobody", "orders/get").returncode == 1
    assert shop.busmesh("describe", "service", "ghosts").returncode == 1


def test_a_watch_prints_a_line_of_json_for_each_look(shop: Up) -> None:
    environment = {**os.environ, "BUSMESH_HOME": str(shop.home)}
    command = [*BUSMESH, "get", "instances", "-w", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as watch:
        assert watch.stdout is not None
        looks = [json.loads(watch.stdout.readline()) for _ in range(2)]
        watch.terminate()

    assert all({row["service"] for row in look} == {"orders", "stock"} for look in looks)


def test_on_a_terminal_without_colour_there_is_none(shop: Up) -> None:
    environment = {**os.environ, "BUSMESH_HOME": str(shop.home), "NO_COLOR": "1", "TERM": "xterm"}
    for words in ("get nodes", "check", "stat", "--help"):
        command = ["script", "-qec", f"{' '.join(BUSMESH)} {words}", "/dev/null"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)

        assert done.returncode == 0, words
        assert "\x1b[3" not in done.stdout and "\x1b[1m" not in done.stdout, words


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(group, "commands"):
        for name, command in group.commands.items():
            yield from commands(command, (*path, name))
    else:
        yield path, group


ALL = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_has_help_and_what_prints_json_is_held_to_it(path: tuple[str, ...]) -> None:
    command = ALL[path]

    assert command.help
    assert any("-o" in option.opts for option in command.params) == (path not in NO_RESULT)
    covered = {known[: len(path)] for known in (*JSON, *MADE, *CHANGED)} | LATER | NO_RESULT
    assert path in covered, f"{' '.join(path)} has -o, and no row here says what its JSON holds"


LATER = {
    *(("up",), ("drain",), ("undrain",), ("policy", "check"), ("access", "audit"), ("receipt", "verify")),
    *(("service", verb) for verb in ("start", "stop", "restart", "scale", "logs")),
}
"""Held to their JSON elsewhere: `up` in test_up.py, and what changes something in the tests of that."""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_offered_for_every_shell_and_knows_services(shop: Up, shell: str) -> None:
    busmesh = str(Path(sys.executable).with_name("busmesh"))
    environment = {**os.environ, "BUSMESH_HOME": str(shop.home)}
    script = {"_BUSMESH_COMPLETE": f"source_{shell}"}
    shown = subprocess.run([busmesh], capture_output=True, text=True, timeout=30, env={**environment, **script})
    asked = {"_BUSMESH_COMPLETE": f"complete_{shell}", "COMP_WORDS": "busmesh tap o", "COMP_CWORD": "2"}
    asked |= {"_TYPER_COMPLETE_ARGS": "busmesh tap o", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    found = subprocess.run([busmesh], capture_output=True, text=True, timeout=30, env={**environment, **asked})
    away = {**environment, **asked, "BUSMESH_HOME": "/nowhere", "BUSMESH_SOCKET": "/nowhere/agent.sock"}
    nothing = subprocess.run([busmesh], capture_output=True, text=True, timeout=30, env=away)

    assert "_BUSMESH_COMPLETE" in shown.stdout, shown.stderr
    assert "orders" in found.stdout, found.stderr
    assert ("orders" in nothing.stdout, nothing.stderr) == (False, "")


def test_the_schema_of_a_method_is_its_contracts_and_a_wrong_name_gets_the_nearest(shop: Up) -> None:
    found, wrong, nobody = shop.busmesh_each(
        ("describe", "method", "orders/create", "-o", "json"),
        ("describe", "method", "orders/got"),
        ("describe", "method", "order/get"),
    )

    told = json.loads(found.stdout)
    assert told["parameters"]["required"] == ["order"]
    assert told["parameters"]["properties"]["order"]["properties"]["sku"]["type"] == "string"
    assert wrong.returncode == nobody.returncode == 1
    assert "there is no method of orders 'got': did you mean get?" in wrong.stderr
    assert "there is no service 'order': did you mean orders?" in nobody.stderr
