import pytest

from bus_mesh.bus.embedded import ServerFailed, check_version


@pytest.mark.parametrize("version", ["2.14.0", "2.14.7", "2.15.1", "2.12.7", "2.12.9", "2.11.16", "3.0.0"])
def test_a_version_with_the_fixes_is_taken(version: str) -> None:
    assert check_version(f"nats-server: v{version}\n") == version


@pytest.mark.parametrize(
    ("version", "floor"),
    [("2.9.10", "2.14.0"), ("2.11.15", "2.11.16"), ("2.12.6", "2.12.7"), ("2.13.9", "2.14.0"), ("1.4.0", "2.14.0")],
)
def test_an_older_one_is_refused_naming_it_the_floor_and_the_way_out(version: str, floor: str) -> None:
    with pytest.raises(ServerFailed, match=rf"nats-server {version} .*{floor}.*pip install"):
        check_version(f"nats-server: v{version}\n")


def test_what_is_no_server_is_refused() -> None:
    with pytest.raises(ServerFailed, match="does not look like a nats-server"):
        check_version("bash: fine\n")
