"""`busmesh nats config`, and the users that `busmesh node add` then brings."""

import stat
from pathlib import Path

import pytest
import yaml

from bus_mesh.cli.home import MeshHome
from bus_mesh.cli.mesh import add
from bus_mesh.cli.nats import config
from bus_mesh.cli.nats_home import NatsHome
from bus_mesh.cli.problem import USAGE, Problem
from bus_mesh.config import load_node
from bus_mesh.control import nats_jwt
from bus_mesh.control.nats_authority import KEYS
from bus_mesh.identity.bus_credentials import Credentials


@pytest.fixture
def home(tmp_path: Path) -> Path:
    MeshHome(tmp_path / "home").init("demo")
    return tmp_path / "home"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_keys_of_the_broker_are_readable_by_their_owner_only(home: Path, tmp_path: Path) -> None:
    config(tmp_path / "server", home=home)

    seeds = [home / "nats" / f"{name}.seed" for name in KEYS]
    assert {mode(path) for path in (*seeds, home / "nats" / "ca.key", tmp_path / "server" / "server.key")} == {0o600}
    assert {mode(path) for path in (home / "nats", tmp_path / "server")} == {0o700}
    served = b"".join(contents(tmp_path / "server").values())
    assert not [path for path in (*seeds, home / "nats" / "ca.key") if path.read_bytes().strip() in served]


def test_writing_twice_keeps_every_key_and_renews_the_certificate(home: Path, tmp_path: Path) -> None:
    config(tmp_path / "server", home=home)
    kept, served = contents(home), contents(tmp_path / "server")

    config(tmp_path / "server", home=home)

    assert contents(home) == kept
    assert contents(tmp_path / "server")["ca.pem"] == served["ca.pem"]
    assert contents(tmp_path / "server")["server.crt"] != served["server.crt"]


def test_a_making_that_was_cut_short_is_carried_on(home: Path, tmp_path: Path) -> None:
    config(tmp_path / "server", home=home)
    seed = (home / "nats" / "operator.seed").read_bytes()
    for name in ("ca.pem", "account.jwt", "account_signing.seed"):
        (home / "nats" / name).unlink()
    assert not NatsHome(MeshHome(home)).exists

    config(tmp_path / "server", home=home)

    assert (home / "nats" / "operator.seed").read_bytes() == seed
    assert NatsHome(MeshHome(home)).exists


def test_it_prints_the_configuration_and_nothing_else(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config(tmp_path / "server", home=home)

    assert capsys.readouterr().out == f"{tmp_path / 'server' / 'nats-server.conf'}\n"


def test_a_folder_without_a_mesh_says_how_to_make_one_and_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        config(tmp_path / "server", home=tmp_path / "none")

    assert f"busmesh init --home {tmp_path / 'none'}" in caught.value.then
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["nats-server.conf", "server.key", "server.crt", "ca.pem"])
def test_files_of_others_are_not_overwritten(home: Path, tmp_path: Path, name: str) -> None:
    taken = tmp_path / "server" / name
    taken.parent.mkdir()
    taken.write_text("mine")

    with pytest.raises(Problem, match=f"already holds a file {name}") as caught:
        config(taken.parent, home=home)

    assert "--out ANOTHER/DIRECTORY" in caught.value.then
    assert contents(taken.parent) == {name: b"mine"}
    assert not (home / "nats").exists()


def test_the_folder_of_another_mesh_is_not_overwritten(home: Path, tmp_path: Path) -> None:
    MeshHome(tmp_path / "other").init("other")
    config(tmp_path / "server", home=tmp_path / "other")

    with pytest.raises(Problem, match="already holds"):
        config(tmp_path / "server", home=home)


@pytest.mark.parametrize(
    ("listen", "name", "told"),
    [
        ("4222", None, "it must be a host and a port"),
        (":4222", None, "it must be a host and a port"),
        ("a:x", None, "it must be a host and a port"),
        ('a"b:1', ["a"], "it must be a host and a port"),
        ("127.0.0.1:0", None, "a port is 1 to 65535"),
        ("127.0.0.1:99999", None, "a port is 1 to 65535"),
        ("0.0.0.0:4222", None, "its certificate must hold the name"),
        ("127.0.0.1:4222", ["a b"], "it goes into the server's certificate"),
    ],
)
def test_addresses_that_are_none_say_what_one_is(
    home: Path, tmp_path: Path, listen: str, name: list[str] | None, told: str
) -> None:
    with pytest.raises(Problem) as caught:
        config(tmp_path / "server", home=home, listen=listen, name=name)

    assert (caught.value.exit_code, caught.value.why) == (USAGE, told) or told in caught.value.why
    assert not (tmp_path / "server").exists()


def test_a_node_admitted_after_it_gets_a_user_of_the_bus_and_settings_that_use_it(home: Path, tmp_path: Path) -> None:
    config(tmp_path / "server", home=home, listen="0.0.0.0:4333", name=["bus.example.com"])
    add("node-a", serve="orders", call_as="web", home=home)
    folder, side = home / "node-a", NatsHome(MeshHome(home))

    settings = load_node(folder / "node.yaml", {})
    assert settings.bus.url == ("tls://bus.example.com:4333",)
    assert settings.bus.credentials == folder / "identity" / "bus.creds"
    assert settings.bus.tls is not None and settings.bus.tls.ca == folder / "identity" / "ca.pem"
    assert mode(folder / "identity" / "bus.creds") == 0o600
    made = Credentials.parse((folder / "identity" / "bus.creds").read_text())
    claims = nats_jwt.decode(made.jwt, {side.authority.account_signing.public})
    assert "mesh.demo.rpc.orders.* orders" in claims["nats"]["sub"]["allow"]
    assert 29 < (claims["exp"] - claims["iat"]) / 86_400 <= 30
    assert side.users("node-a") == [made.key.public]
    assert side.users("node-b") == []


def test_a_policy_agents_user_may_speak_on_the_control_subject_and_a_nodes_may_not(home: Path, tmp_path: Path) -> None:
    config(tmp_path / "server", home=home)
    side = NatsHome(MeshHome(home))
    add("control", policy_agent=True, home=home)
    add("node-a", home=home)

    told = {}
    for name in ("control", "node-a"):
        made = Credentials.parse((home / name / "identity" / "bus.creds").read_text())
        told[name] = nats_jwt.decode(made.jwt, {side.authority.account_signing.public})["nats"]["pub"]["allow"]
    assert "mesh.demo.ctl.policy" in told["control"]
    assert "mesh.demo.ctl.policy" not in told["node-a"]
    with pytest.raises(Problem, match="serves nothing and speaks for nobody"):
        add("other", serve="orders", policy_agent=True, home=home)


def test_a_node_of_a_mesh_without_a_broker_of_its_own_gets_none(home: Path) -> None:
    add("node-a", home=home)

    assert sorted(path.name for path in (home / "node-a" / "identity").iterdir()) == [
        "node.chain",
        "node.key",
        "root.pub",
    ]
    assert yaml.safe_load((home / "node-a" / "node.yaml").read_text())["bus"] == {"url": "nats://127.0.0.1:4222"}


def test_a_damaged_seed_says_which_and_is_not_repeated(home: Path, tmp_path: Path) -> None:
    config(tmp_path / "server", home=home)
    seed = home / "nats" / "account_signing.seed"
    written = seed.read_text().strip()
    seed.write_text(written[:-1])

    with pytest.raises(Problem, match=r"account_signing\.seed is damaged") as caught:
        add("node-a", home=home)

    assert written[:-1] not in str(caught.value)
    assert not (home / "node-a").exists(), "it is admitted with its user, or not at all"


def test_who_was_revoked_is_noted_in_the_home(home: Path, tmp_path: Path) -> None:
    config(tmp_path / "server", home=home)
    add("node-a", home=home)
    side = NatsHome(MeshHome(home))

    token = side.revoke(side.users("node-a"))

    claims = nats_jwt.decode(side.account_token, {side.authority.operator_signing.public})
    assert token == side.account_token
    assert list(claims["nats"]["revocations"]) == side.users("node-a")
