"""Who may import whom: the arrows are drawn in docs/layout.md, and there are no others."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "bus_mesh").rglob("*.py"), *(ROOT / "adapters" / "bus_mesh_sdk").rglob("*.py")]

# What a package of ours may import of ours, itself not named. "cli" may import everything.
ARROWS = {
    "protocol": set(),
    "clock": set(),
    "identity": {"protocol"},
    "policy": {"protocol"},
    "balance": {"protocol"},
    "resilience": {"protocol", "policy"},
    "gates": {"protocol", "policy", "balance", "resilience"},
    "process": {"clock"},
    "bus": {"protocol", "process", "clock"},
    "telemetry": {"protocol", "clock"},
    "programs": {"policy"},
    "config": {"policy", "protocol", "programs"},
    "policy_files": {"policy", "config"},
    "starts": set(),
    "bus_access": {"bus", "identity", "policy", "config"},
    "agent": {
        "gates",
        "bus",
        "identity",
        "policy",
        "balance",
        "resilience",
        "telemetry",
        "config",
        "policy_files",
        "starts",
        "bus_access",
        "clock",
        "process",
        "protocol",
    },
    "control": {
        "policy",
        "identity",
        "bus",
        "telemetry",
        "config",
        "policy_files",
        "starts",
        "bus_access",
        "clock",
        "process",
        "protocol",
    },
    "testing": {"agent", "bus", "identity", "policy", "protocol", "telemetry", "clock"},
    "demo": {"bus_mesh_sdk"},
    "bus_mesh_sdk": {"protocol", "clock"},
}
# Where each package that is not ours may be imported. Inside cli each subcommand imports what it needs.
THIRD_PARTY = {
    "msgpack": {
        "protocol",
        "identity",
        "bus_mesh_sdk",
        "agent/console.py",
        "agent/follow.py",
        "agent/plain_values.py",
        "agent/orders.py",
        "agent/schemas.py",
        "control",
        "cli",
    },
    "cryptography": {"identity", "control/nats_tls.py"},
    "pydantic": {"policy", "config.py", "programs.py", "control/settings.py", "bus_mesh_sdk", "demo"},
    "pydantic_core": {"policy", "bus_mesh_sdk", "config.py"},
    "yaml": {"policy", "cli"},
    "nats": {"bus/nats_bus.py", "bus/nats_connection.py"},
    "structlog": {"telemetry"},
    "prometheus_client": {"telemetry"},
    "typer": {"cli"},
    "click": {"cli"},
    "rich": {"cli"},
    "opentelemetry": {"telemetry/spans.py"},
    "uvloop": {"agent/run.py", "cli", "demo", "bus_mesh_sdk"},
}
PURE = ("protocol", "identity", "policy", "balance", "resilience", "gates")
NOT_PURE = {"asyncio", "time", "random", "socket", "threading", "subprocess", "secrets"}


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "bus_mesh"}
    return found


def package_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "adapters" or len(parts) > 1 else parts[0]


def ours(imported: str) -> str | None:
    parts = imported.split(".")
    if parts[0] == "bus_mesh_sdk":
        return parts[0]
    return parts[1] if parts[0] == "bus_mesh" and len(parts) > 1 else None


def within(path: Path, places: set[str]) -> bool:
    shown = path.relative_to(ROOT).as_posix().removeprefix("bus_mesh/").removeprefix("adapters/")
    return any(shown == place or shown.startswith(f"{place}/") for place in places)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_import_follows_an_arrow_of_the_diagram(path: Path) -> None:
    package = package_of(path)
    allowed = ARROWS.get(package, set()) | {package, "__version__"}
    for imported in imports_of(path):
        top, target = imported.partition(".")[0], ours(imported)
        if target is not None and package not in ("cli", "__init__"):
            sdk_testing = package == "bus_mesh_sdk" and path.name == "testing.py" and target == "testing"
            assert target in allowed or sdk_testing, f"{package} may not import {imported}"
        if top in THIRD_PARTY:
            assert within(path, THIRD_PARTY[top]), f"{imported} belongs in {THIRD_PARTY[top]}"
        if package in PURE:
            assert top not in NOT_PURE, f"{package} is pure and may not import {imported}"
        if top == "time":
            assert package in ("clock", "process"), f"clock.py is the only import of time, not {path.name}"


def test_the_top_package_imports_nothing() -> None:
    assert imports_of(ROOT / "bus_mesh" / "__init__.py") == set()


def test_there_is_no_python_in_the_folder_named_nats() -> None:
    assert list((ROOT / "nats").rglob("*.py")) == []


def loaded_with(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_sdk_loads_none_of_the_heavy_packages() -> None:
    heavy = {"nats", "cryptography", "structlog", "prometheus_client", "pydantic", "yaml", "typer"}

    assert not heavy & loaded_with("bus_mesh_sdk")


def test_what_runs_for_good_loads_nothing_that_draws() -> None:
    for module in ("bus_mesh.agent.run", "bus_mesh.control.run"):
        assert not {"rich", "pygments", "typer"} & loaded_with(module)


def test_what_the_log_does_without_is_there_for_others() -> None:
    code = "import bus_mesh.telemetry.log, rich; print(rich.__name__)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "rich\n"
