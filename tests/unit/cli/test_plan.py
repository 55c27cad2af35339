import shutil
import socket
import stat
from pathlib import Path
from typing import Any
from wsgiref.simple_server import make_server

import pytest
import yaml

from bus_mesh.cli import nats_home, plan
from bus_mesh.cli.home import MeshHome
from bus_mesh.cli.nats_home import NatsHome
from bus_mesh.cli.plan import Wanted
from bus_mesh.cli.problem import Problem
from bus_mesh.control import nats_jwt
from bus_mesh.identity.bus_credentials import Credentials

DEMO = Wanted(demo=True, load=20.0, serve=[], call_as=[], policy=[])
BARE = Wanted(demo=False, load=20.0, serve=["hello"], call_as=["greeter"], policy=[])


def test_the_demo_has_two_orders_and_one_stock_on_each_node() -> None:
    assert plan.instances(DEMO) == {
        ("stock", "node-a"): 1,
        ("orders", "node-a"): 2,
        ("stock", "node-b"): 1,
        ("orders", "node-b"): 2,
    }


def test_web_runs_on_the_first_node_at_the_rate_asked_for_and_not_at_all_at_zero() -> None:
    assert plan.services(DEMO, "node-a")["web"]["env"] == {"SHOP_RATE": "20"}
    assert "web" not in plan.services(DEMO, "node-b")
    assert "web" not in plan.services(DEMO._replace(load=0.0), "node-a")


def test_without_the_demo_nothing_runs() -> None:
    assert plan.services(BARE, "node-a") == {} and plan.instances(BARE) == {}


def test_a_second_start_keeps_keys_and_the_policy_somebody_wrote(tmp_path: Path) -> None:
    home = tmp_path / "home"
    plan.prepare(home, DEMO, None, [1, 2])
    (home / "policy" / "demo.yaml").write_text("# mine\n")
    keys = [path.read_bytes() for path in sorted(home.rglob("*.key"))]

    plan.prepare(home, DEMO, None, [1, 2])

    assert [path.read_bytes() for path in sorted(home.rglob("*.key"))] == keys
    assert (home / "policy" / "demo.yaml").read_text() == "# mine\n"


def test_each_node_and_the_policy_agent_have_a_user_of_the_bus_with_their_own_grants(tmp_path: Path) -> None:
    home = tmp_path / "home"

    plan.prepare(home, BARE, None, [1, 2])

    told = {name: claims(home, name)["nats"] for name in (*plan.NODES, plan.CONTROL)}
    assert "mesh.dev.rpc.hello.* hello" in told["node-a"]["sub"]["allow"]
    assert "mesh.dev.node.node-b.*" in told["node-b"]["sub"]["allow"]
    assert [name for name in told if "mesh.dev.ctl.policy" in told[name]["pub"]["allow"]] == [plan.CONTROL]


def test_a_user_is_kept_until_other_services_are_granted_and_is_void_then(tmp_path: Path) -> None:
    home, more = tmp_path / "home", BARE._replace(serve=["hello", "bank"])
    plan.prepare(home, BARE, None, [1, 2])
    before = (home / "node-a" / "identity" / "bus.creds").read_text()

    plan.prepare(home, BARE, None, [1, 2])
    again = (home / "node-a" / "identity" / "bus.creds").read_text()
    plan.prepare(home, more, None, [1, 2])

    assert again == before
    assert "mesh.dev.rpc.bank.* bank" in claims(home, "node-a")["nats"]["sub"]["allow"]
    revoked = decoded(home, NatsHome(MeshHome(home)).account_token)["nats"]["revocations"]
    assert {Credentials.parse(before).key.public} < set(revoked)
    assert Credentials.parse((home / "node-a" / "identity" / "bus.creds").read_text()).key.public not in revoked


def test_a_user_that_ends_soon_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setattr(nats_home, "USER_SECONDS", 600)
    plan.prepare(home, BARE, None, [1, 2])
    monkeypatch.undo()

    plan.prepare(home, BARE, None, [1, 2])

    said = claims(home, "node-a")
    assert said["exp"] - said["iat"] == nats_home.USER_SECONDS


@pytest.mark.parametrize("lost", ["nats", "nats/account.jwt", "node-a/identity/bus.creds", "node-a/identity/ca.pem"])
def test_what_a_home_lacks_of_the_bus_is_made_at_the_next_start(tmp_path: Path, lost: str) -> None:
    home = tmp_path / "home"
    plan.prepare(home, BARE, None, [1, 2])
    gone = home / lost
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()

    plan.prepare(home, BARE, None, [1, 2])

    assert gone.exists()
    assert "mesh.dev.rpc.hello.* hello" in claims(home, "node-a")["nats"]["sub"]["allow"]
    assert (home / "node-a" / "identity" / "ca.pem").read_bytes() == (home / "nats" / "ca.pem").read_bytes()


def claims(home: Path, node: str) -> dict[str, Any]:
    """What the token of a node's user says; the mesh's account must have signed it."""
    return decoded(home, Credentials.parse((home / node / "identity" / "bus.creds").read_text()).jwt)


def decoded(home: Path, token: str) -> dict[str, Any]:
    authority = NatsHome(MeshHome(home)).authority
    return nats_jwt.decode(token, {authority.account_signing.public, authority.operator_signing.public})


def test_policy_given_is_copied_into_the_home(tmp_path: Path) -> None:
    extra = tmp_path / "extra"
    extra.mkdir()
    (extra / "a.yaml").write_text("# a\n")
    (tmp_path / "hello.yml").write_text("# hello\n")

    plan.prepare(tmp_path / "home", BARE._replace(policy=[extra, tmp_path / "hello.yml"]), None, [1, 2])

    assert sorted(path.name for path in (tmp_path / "home" / "policy").iterdir()) == [
        "a.yaml",
        "hello.yml",
        "mesh.yaml",
    ]


def test_policy_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"gone\.yaml"):
        plan.prepare(tmp_path / "home", BARE._replace(policy=[tmp_path / "gone.yaml"]), None, [1, 2])


def test_the_socket_folder_is_open_to_the_group_and_no_further(tmp_path: Path) -> None:
    nodes = plan.prepare(tmp_path / "home", BARE, None, [1, 2])

    assert {stat.S_IMODE(node.socket.parent.stat().st_mode) for node in nodes} == {0o750}


def test_settings_name_the_bus_the_socket_and_the_port(tmp_path: Path) -> None:
    home = tmp_path / "home"
    node = plan.prepare(home, DEMO, None, [4711, 2])[0]

    plan.write_settings(home, node, DEMO, "tls://127.0.0.1:4222")

    written = yaml.safe_load(node.config.read_text())
    assert (written["bus"], written["socket"], written["http"]) == (
        {
            "url": "tls://127.0.0.1:4222",
            "credentials": "identity/bus.creds",
            "tls": {"ca": "identity/ca.pem"},
        },
        str(home / "node-a" / "agent.sock"),
        "127.0.0.1:4711",
    )
    assert list(written["services"]) == ["stock", "orders", "web"]
    assert "micro" not in written


def test_a_node_with_a_user_for_it_has_a_way_out_of_the_mesh(tmp_path: Path) -> None:
    home = tmp_path / "home"
    node = plan.prepare(home, DEMO, None, [4711, 2])[0]
    (node.config.parent / plan.OUTSIDE).touch()

    plan.write_settings(home, node, DEMO, "tls://127.0.0.1:4222")

    assert yaml.safe_load(node.config.read_text())["micro"] == {"credentials": "outside.creds"}


def test_sockets_move_to_a_short_private_folder_when_the_home_is_deep(tmp_path: Path) -> None:
    elsewhere = plan.sockets_elsewhere(tmp_path / ("deep" * 30))

    assert elsewhere is not None
    assert len(str(elsewhere / "node-a" / "agent.sock")) < 107
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o700
    elsewhere.rmdir()


def test_sockets_stay_in_a_home_that_is_short_enough() -> None:
    assert plan.sockets_elsewhere(Path("/srv/busmesh")) is None


def test_a_reserved_port_can_be_listened_on_again_and_again() -> None:
    with plan.reserve_port() as kept:
        port = kept.getsockname()[1]
        for _ in range(2):
            with make_server("127.0.0.1", port, lambda environ, start: []) as server:
                assert server.server_port == port
                with socket.create_connection(("127.0.0.1", port)):
                    pass
