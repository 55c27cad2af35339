"""`busmesh agent --join`, up to where the bus would be asked."""

import secrets
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bus_mesh.cli.home import MeshHome
from bus_mesh.cli.join import joined, starter
from bus_mesh.cli.main import app
from bus_mesh.cli.problem import Problem
from bus_mesh.config import load_node
from bus_mesh.identity.enrolment import Token, fingerprint


def token(home: MeshHome, node: str = "node-c", ca: str = "") -> Token:
    root = fingerprint((home.path / "root.pub").read_bytes())
    way = ("tls://127.0.0.1:1",), ca, True
    return Token(home.mesh, node, *way, root, "id-1", secrets.token_bytes(16), 1, "", "")


@pytest.fixture
def home(tmp_path: Path) -> MeshHome:
    made = MeshHome(tmp_path / "home")
    made.init("shop")
    return made


def busmesh(*args: str | Path, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], input=typed)


@pytest.mark.parametrize("user", [True, False])
def test_the_settings_that_are_written_are_those_of_the_token(home: MeshHome, tmp_path: Path, user: bool) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(starter(token(home, ca="-----"), path, user=user))

    said = load_node(path, {})

    assert (said.mesh, said.node, said.bus.url) == ("shop", "node-c", ("tls://127.0.0.1:1",))
    assert said.bus.credentials == (tmp_path / "identity" / "bus.creds" if user else None)
    assert said.bus.tls is not None
    assert said.bus.tls.ca == tmp_path / "identity" / "ca.pem"
    assert said.policy_dir is None


def test_a_machine_that_is_that_node_already_does_not_use_the_token(home: MeshHome, tmp_path: Path) -> None:
    home.admit("node-c", ["orders"], [], tmp_path / "c" / "identity")

    assert joined(token(home).text(), None, tmp_path / "c") == tmp_path / "c" / "node.yaml"


def test_an_identity_of_another_node_is_never_overwritten(home: MeshHome, tmp_path: Path) -> None:
    home.admit("node-b", [], [], tmp_path / "c" / "identity")

    with pytest.raises(Problem, match="identity of node-b already"):
        joined(token(home).text(), None, tmp_path / "c")


def test_settings_of_another_node_are_not_taken(home: MeshHome, tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("mesh: shop\nnode: node-b\nbus: {url: 'nats://127.0.0.1:1'}\nstate: state\n")

    with pytest.raises(Problem, match="this token admits node-c"):
        joined(token(home).text(), path, None)
    assert list(tmp_path.iterdir()) == [home.path, path]


def test_a_token_that_is_none_is_said_without_repeating_it(home: MeshHome, tmp_path: Path) -> None:
    text = token(home).text()[:-1]

    for done in (
        busmesh("agent", "--join", text, "--state", tmp_path / "c"),
        busmesh("agent", "--join", "-", "--state", tmp_path / "c", typed=f"{text}\n"),
    ):
        assert isinstance(done.exception, Problem)
        assert "not whole" in str(done.exception)
        assert text not in str(done.exception)
    assert not (tmp_path / "c").exists()


def test_without_a_place_or_settings_the_error_says_what_to_add(home: MeshHome) -> None:
    assert "add --state DIR" in str(busmesh("agent", "--join", token(home).text()).exception)
    assert "busmesh agent -c NODE.YAML" in str(busmesh("agent").exception)
