import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import bus_mesh_sdk
import pytest

HERE = Path(bus_mesh_sdk.__file__).parent
ADAPTERS = HERE.parent

PUBLIC = """
AgentAway BusStalled Cancelled Code Context DeadlineExceeded Draining FailedPrecondition Fault Internal InvalidArgument
InvalidName Mesh MeshError NoInstances NotFound OutcomeUnknown PayloadTooLarge PermissionDenied Ran ResourceExhausted
Service Serving SyncMesh Unauthenticated Unavailable Unimplemented blocking current options rpc
""".split()
NOT_AT_IMPORT = ["nats", "cryptography", "structlog", "prometheus_client", "pydantic", "yaml"]
IMPORT_SECONDS = 0.060

MEASURE = f"""
import json, sys, time
before = time.process_time()
import bus_mesh_sdk
took = time.process_time() - before
print(json.dumps([took, [name for name in {NOT_AT_IMPORT} if name in sys.modules]]))
"""


def test_the_public_names_are_these() -> None:
    assert sorted(bus_mesh_sdk.__all__) == sorted(PUBLIC)


def test_every_public_name_is_there_and_no_other() -> None:
    found = {name for name in vars(bus_mesh_sdk) if not name.startswith("_")}
    modules = {"sync"}  # a submodule of the package becomes its attribute

    assert found - modules == set(bus_mesh_sdk.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_explained(name: str) -> None:
    assert getattr(bus_mesh_sdk, name).__doc__


def test_import_is_quick_and_brings_nothing_heavy(tmp_path: Path) -> None:
    # Processor time and the best of several, since other tests may share the machine; compiled once, as installed.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    run = [sys.executable, "-c", MEASURE]
    found = [
        json.loads(subprocess.run(run, env=environment, capture_output=True, check=True).stdout) for _ in range(6)
    ]

    assert [heavy for _, heavy in found] == [[]] * 6
    assert min(took for took, _ in found) <= IMPORT_SECONDS


def test_of_bus_mesh_only_the_protocol_and_the_version_are_imported() -> None:
    for path in HERE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            wrong = [
                name
                for name in names
                if name.startswith("bus_mesh.") and not name.startswith("bus_mesh.protocol") or name in ("time", "random")
            ]
            assert not wrong, f"{path.name} imports {wrong}"


def test_the_page_on_the_local_protocol_names_every_frame() -> None:
    from bus_mesh.protocol.frames import Kind

    page = (ADAPTERS / "README.md").read_text()

    assert not [kind.name for kind in Kind if kind.name not in page]
