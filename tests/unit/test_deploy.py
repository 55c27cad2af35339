"""What is given to run bus-mesh for good: units, manifests, an image, rules for alerts."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bus_mesh.config import load_node
from bus_mesh.telemetry.metrics import Metrics

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
PODS = [one for one in DOCUMENTS if one["kind"] in ("DaemonSet", "Deployment")]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    program = tmp_path / "busmesh"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    there = tmp_path / unit.name
    there.write_text(unit.read_text().replace("/opt/busmesh/bin/busmesh", str(program)))
    done = run("systemd-analyze", "verify", "--man=no", str(there))

    told = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, told) == (0, []), done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_notifies_beats_and_has_time_to_drain(unit: Path) -> None:
    said = dict(line.split("=", 1) for line in unit.read_text().splitlines() if re.match(r"[A-Z]\w+=", line))

    assert (said["Type"], said["Restart"], said["WatchdogSec"]) == ("notify", "always", "20s")
    assert int(said["TimeoutStopSec"].removesuffix("s")) >= (60 if " agent " in said["ExecStart"] else 20)


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed: it comes with the dependency group dev")
    done = run(str(hadolint), str(DEPLOY / "Dockerfile"))

    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_takes_the_rules() -> None:
    done = run("promtool", "check", "rules", str(DEPLOY / "alerts.yaml"))

    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_name_metrics_that_there_are() -> None:
    source = "".join(path.read_text() for path in (DEPLOY.parents[1] / "bus_mesh").rglob("*.py"))
    text = Metrics("1").render().decode()
    named = {
        name.removesuffix("_count") for name in re.findall(r"busmesh_([a-z_]+)", (DEPLOY / "alerts.yaml").read_text())
    }

    assert len(named) == 5
    assert [name for name in named if f'"{name}"' not in source and f"busmesh_{name}" not in text] == []


def containers(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from spec.get("initContainers", ())
    yield from spec["containers"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_a_manifest_has_what_kubernetes_asks_of_it(document: dict[str, Any]) -> None:
    versions = {"DaemonSet": "apps/v1", "Deployment": "apps/v1"}

    assert document["apiVersion"] == versions.get(document["kind"], "v1")
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", document["metadata"]["name"])
    assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "busmesh"


@pytest.mark.parametrize("document", PODS, ids=lambda one: one["metadata"]["name"])
def test_what_a_pod_mounts_probes_and_selects_is_there(document: dict[str, Any]) -> None:
    template = document["spec"]["template"]
    spec, volumes = template["spec"], {volume["name"] for volume in template["spec"]["volumes"]}

    assert document["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert {mount["name"] for one in containers(spec) for mount in one["volumeMounts"]} == volumes
    for one in spec["containers"]:
        ports = {port["name"] for port in one["ports"]}
        probes = [one[probe]["httpGet"] for probe in ("livenessProbe", "readinessProbe")]
        assert [(probe["path"], probe["port"] in ports) for probe in probes] == [("/healthz", True), ("/readyz", True)]
        assert one["securityContext"]["runAsNonRoot"] is True
        assert "memory" in one["resources"]["limits"]


def test_the_settings_in_the_manifest_are_settings(tmp_path: Path) -> None:
    (settings,) = [one["data"]["node.yaml"] for one in DOCUMENTS if one["kind"] == "ConfigMap"]
    file = tmp_path / "node.yaml"
    file.write_text(settings.replace("node: NODE", "node: worker-1"))
    config = load_node(file, {})

    assert config.http is not None
    assert (config.node, str(config.socket), config.http.port) == ("worker-1", "/run/busmesh/agent.sock", 9465)
