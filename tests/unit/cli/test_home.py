import stat
from pathlib import Path

import pytest
import yaml

from bus_mesh import clock
from bus_mesh.cli.home import DAY_US, MeshHome
from bus_mesh.cli.mesh import add, init
from bus_mesh.cli.problem import Problem
from bus_mesh.identity.certificate import Role, verify_chain, verify_delegation
from bus_mesh.identity.keys import NodeKey
from bus_mesh.protocol.errors import InvalidName


@pytest.fixture
def made(tmp_path: Path) -> MeshHome:
    mesh = MeshHome(tmp_path / "home")
    mesh.init("demo")
    return mesh


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_private_keys_are_readable_by_their_owner_only(made: MeshHome) -> None:
    made.admit("node-a", ["orders"], ["web"], made.path / "node-a" / "identity")

    keys = sorted(path.relative_to(made.path).as_posix() for path in made.path.rglob("*.key"))
    assert keys == ["issuer.key", "node-a/identity/node.key", "operator.key", "policy.key", "root.key"]
    assert {mode(made.path / key) for key in keys} == {0o600}
    assert {mode(path) for path in (made.path, made.path / "node-a", made.path / "node-a" / "identity")} == {0o700}


@pytest.mark.parametrize("role", list(Role))
def test_the_root_delegates_each_role_for_a_year(made: MeshHome, role: Role) -> None:
    root, key = (made.path / "root.pub").read_bytes(), (made.path / f"{role}.key").read_bytes()
    data = (made.path / f"{role}.delegation").read_bytes()

    found = verify_delegation(data, "demo", root, clock.wall_us(), role)

    assert found.key == NodeKey.from_bytes(key).public
    assert 364 * DAY_US < found.not_after_us - clock.wall_us() <= 365 * DAY_US


def test_a_home_is_never_made_over_another(made: MeshHome) -> None:
    before = (made.path / "root.key").read_bytes()

    with pytest.raises(Problem, match="already holds"):
        made.init("demo")

    assert (made.path / "root.key").read_bytes() == before


def test_a_mesh_must_have_a_valid_name_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidName):
        MeshHome(tmp_path / "home").init("Not A Name")

    assert not (tmp_path / "home").exists()


def test_a_node_gets_what_it_was_granted_for_thirty_days_from_a_minute_ago(made: MeshHome) -> None:
    identity = made.path / "node-a" / "identity"
    made.admit("node-a", ["orders", "stock"], ["web"], identity)

    chain, root = (identity / "node.chain").read_bytes(), (identity / "root.pub").read_bytes()
    found = verify_chain(chain, "demo", root, clock.wall_us())
    assert (found.node, found.serve, found.call_as) == ("node-a", frozenset({"orders", "stock"}), frozenset({"web"}))
    assert found.key == NodeKey.from_bytes((identity / "node.key").read_bytes()).public
    assert 29 * DAY_US < found.not_after_us - clock.wall_us() < 30 * DAY_US
    assert 50_000_000 < clock.wall_us() - found.not_before_us < 90_000_000


def test_a_second_node_of_the_same_folder_is_refused(made: MeshHome) -> None:
    made.admit("node-a", [], [], made.path / "node-a")

    with pytest.raises(Problem, match="already holds the identity"):
        made.admit("node-b", [], [], made.path / "node-a")


@pytest.mark.parametrize(("node", "serve"), [("../etc", []), ("node-a", ["or ders"]), ("node-a", ["*"])])
def test_names_are_checked_before_a_file_is_written(made: MeshHome, node: str, serve: list[str]) -> None:
    with pytest.raises(InvalidName):
        made.admit(node, serve, [], made.path / "new")

    assert not (made.path / "new").exists()


def test_a_certificate_is_renewed_in_its_last_third_or_for_another_grant(
    made: MeshHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = made.path / "node-a"
    made.admit("node-a", ["orders"], ["cli"], identity)
    key = (identity / "node.key").read_bytes()

    def renewed(serve: list[str], days: int = 0) -> bool:
        now_us = clock.wall_us() + days * DAY_US
        monkeypatch.setattr(clock, "wall_us", lambda: now_us)
        return made.renew("node-a", serve, ["cli"], identity)

    assert not renewed(["orders"])
    assert renewed(["orders", "hello"])
    assert not renewed(["orders", "hello"], days=15)
    assert renewed(["orders", "hello"], days=10)
    assert renewed(["orders", "hello"], days=100), "an expired one too"
    assert (identity / "node.key").read_bytes() == key


def test_a_folder_that_is_no_home_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        MeshHome(tmp_path).admit("node-a", [], [], tmp_path / "node-a")

    assert f"busmesh init --home {tmp_path}" in caught.value.then


def test_init_and_node_add_print_what_they_made_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init("demo", home=tmp_path / "home")
    add("node-a", serve="orders, stock", call_as="web", home=tmp_path / "home")

    config = tmp_path / "home" / "node-a" / "node.yaml"
    assert capsys.readouterr().out == f"{tmp_path / 'home'}\n{config}\n"
    assert yaml.safe_load(config.read_text())["node"] == "node-a"
