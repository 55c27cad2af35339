import json
import os
from pathlib import Path

import pytest
from bus_mesh_sdk import InvalidArgument, InvalidName, _where


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("BUSMESH_SOCKET", "BUSMESH_APP", "BUSMESH_TOKEN_FD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BUSMESH_HOME", str(tmp_path))
    monkeypatch.setattr(_where, "_token", [])


def up(home: Path, *, there: bool) -> str:
    """Leave what a running `busmesh up` leaves."""
    import socket

    path = str(home / "a.sock")
    if there:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
    (home / "up.json").write_text(json.dumps({"nodes": {"node-a": {"socket": path}, "node-b": {"socket": "/b"}}}))
    return path


def test_what_is_given_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUSMESH_SOCKET", "/env")
    assert _where.socket_path(Path("/given")) == "/given"


def test_the_environment_goes_before_a_running_mesh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    up(tmp_path, there=True)
    monkeypatch.setenv("BUSMESH_SOCKET", "/env")

    assert _where.socket_path(None) == "/env"


def test_the_first_node_of_a_running_mesh_goes_before_the_systems(tmp_path: Path) -> None:
    path = up(tmp_path, there=True)

    assert _where.socket_path(None) == path


def test_a_mesh_that_no_longer_runs_is_passed_over(tmp_path: Path) -> None:
    up(tmp_path, there=False)

    assert _where.socket_path(None) == "/run/busmesh/agent.sock"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"nodes": {}}', '{"nodes": {"a": 1}}', '{"nodes": 7}'])
def test_an_up_json_that_makes_no_sense_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "up.json").write_text(text)

    assert _where.socket_path(None) == "/run/busmesh/agent.sock"


def test_home_follows_xdg_and_root_has_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert _where.home() == tmp_path
    monkeypatch.delenv("BUSMESH_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert _where.home() == Path("/state/busmesh")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert _where.home() == Path("/var/lib/busmesh")


def test_a_path_of_107_bytes_will_do_and_one_of_108_will_not() -> None:
    assert _where.socket_path("/" + "x" * 106)
    with pytest.raises(InvalidArgument, match="has 108 bytes and the system's limit is 107"):
        _where.socket_path("/" + "x" * 107)


def test_the_app_is_given_or_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgument, match="set BUSMESH_APP"):
        _where.app_name(None)
    monkeypatch.setenv("BUSMESH_APP", "web")
    assert (_where.app_name(None), _where.app_name("job")) == ("web", "job")
    with pytest.raises(InvalidName):
        _where.app_name("Not An App")


def test_the_token_is_read_once_and_the_descriptor_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"secret\n")
    os.close(writing)
    monkeypatch.setenv("BUSMESH_TOKEN_FD", str(reading))

    assert _where.token(None) == "secret"
    assert _where.token(None) == "secret"
    assert "BUSMESH_TOKEN_FD" not in os.environ
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)


def test_a_token_that_is_given_goes_first() -> None:
    assert (_where.token("mine"), _where.token(None)) == ("mine", None)


def test_a_descriptor_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUSMESH_TOKEN_FD", "9999")
    with pytest.raises(InvalidArgument, match="BUSMESH_TOKEN_FD=9999: the token cannot be read"):
        _where.token(None)
