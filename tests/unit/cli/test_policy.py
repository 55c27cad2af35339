"""`busmesh policy check` and `access check`, as a person runs them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bus_mesh.cli.main import app

GOOD = "kind: Service\nname: orders\naccess: {allow: [{name: shop, from: [web], methods: ['get*']}]}\n"


def busmesh(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "orders.yaml"
    path.write_text(GOOD)
    return path


def test_a_good_file_and_its_directory_have_no_findings(file: Path) -> None:
    for path in (file, file.parent):
        done = busmesh("policy", "check", "-f", path)
        assert (done.exit_code, done.stdout) == (0, "")
        assert "0 errors, 0 warnings" in done.stderr


def test_mistakes_unenforced_parts_and_warnings_are_told_apart_and_fail_as_they_should(file: Path) -> None:
    file.write_text(GOOD + "trafic: {}\n")
    wrong = busmesh("policy", "check", "-f", file)
    assert wrong.exit_code == 1
    assert "orders.yaml:4: error REFUSED: trafic: unknown key (did you mean traffic?)" in wrong.stdout

    file.write_text(GOOD + "events: {}\n")
    later = busmesh("policy", "check", "-f", file)
    assert later.exit_code == 1
    assert "orders.yaml:4: error NOT_ENFORCED: events: is documented, but not yet enforced" in later.stdout

    file.write_text("kind: Service\nname: orders\n")
    assert busmesh("policy", "check", "-f", file).exit_code == 0
    strict = busmesh("policy", "check", "-f", file, "--strict")
    assert strict.exit_code == 1
    assert "warning NOBODY_ALLOWED" in strict.stdout


def test_findings_are_lines_of_json_where_asked(file: Path) -> None:
    file.write_text("kind: Service\nname: orders\n")
    done = busmesh("policy", "check", "-f", file, "-o", "json")

    assert json.loads(done.stdout) == {
        "code": "NOBODY_ALLOWED",
        "severity": "warning",
        "place": f"{file}:1",
        "path": "access",
        "message": "no rule allows anybody to call orders",
    }


def test_a_verdict_names_its_rule_and_is_the_exit_code(file: Path) -> None:
    allowed = busmesh("access", "check", "web", "orders/get_all", "-f", file)
    denied = busmesh("access", "check", "web", "orders/create", "-f", file)

    assert (allowed.exit_code, allowed.stdout) == (0, "Allowed by shop\n")
    assert (denied.exit_code, denied.stdout) == (1, "Denied by default deny\n")


def test_what_mode_audit_lets_through_is_said(file: Path) -> None:
    file.write_text("kind: Service\nname: orders\naccess: {mode: audit}\n")
    done = busmesh("access", "check", "web", "orders/get", "-f", file)

    assert (done.exit_code, done.stdout) == (0, "Allowed by default deny, which mode: audit only reports\n")
