import pytest

from bus_mesh.cli.get import INSTANCES, NODES, SERVICES, lines

NODE = {
    "node": "node-a",
    "version": "0.1.0",
    "boot": "b1",
    "services": ["orders", "stock"],
    "state": "up",
    "age_ms": 1234,
    "cert_expires_us": 1_800_000_000_000_000,
}
SERVICE = {
    "service": "orders",
    "instances": 4,
    "nodes": ["node-a", "node-b"],
    "methods": [{"name": "get", "idempotent": True, "timeout_ms": 500}, {"name": "create"}],
}
INSTANCE = {
    "instance": "i1",
    "service": "orders",
    "node": "node-a",
    "version": "1.2.0",
    "labels": {"zone": "b", "track": "canary"},
    "state": "up",
    "load": 0,
}


def test_the_columns_of_each_table_are_pinned() -> None:
    headers = [lines(columns, [], wide=True)[0].split() for columns in (NODES, SERVICES, INSTANCES)]

    assert headers == [
        ["NODE", "STATE", "VERSION", "SERVICES", "AGE", "BOOT", "CERT_EXPIRES"],
        ["SERVICE", "INSTANCES", "NODES", "METHODS"],
        ["INSTANCE", "SERVICE", "NODE", "VERSION", "STATE", "LOAD", "LABELS"],
    ]


@pytest.mark.parametrize("state", ["joining", "up", "full", "unwell", "leaving", "a-word-of-later"])
def test_an_instance_is_shown_in_the_state_that_it_is_in(state: str) -> None:
    row = lines(INSTANCES, [{**INSTANCE, "state": state}], wide=False)[1].split()

    assert row == ["i1", "orders", "node-a", "1.2.0", state]


def test_wide_only_adds_columns() -> None:
    narrow, wide = (lines(INSTANCES, [INSTANCE], wide=wide) for wide in (False, True))

    assert wide[1].startswith(narrow[1])


def test_a_node_is_one_line_with_its_services_age_and_end_of_certificate() -> None:
    row = lines(NODES, [NODE], wide=True)[1].split()

    assert row == ["node-a", "up", "0.1.0", "orders,stock", "1.2s", "b1", "2027-01-15T08:00:00Z"]


def test_lists_in_cells_have_commas_and_no_spaces() -> None:
    assert lines(SERVICES, [SERVICE], wide=True)[1].split() == ["orders", "4", "node-a,node-b", "create,get"]
    assert lines(INSTANCES, [INSTANCE], wide=True)[1].split()[-1] == "track=canary,zone=b"


def test_rows_are_sorted_by_name() -> None:
    rows = lines(INSTANCES, [{**INSTANCE, "instance": "z"}, {**INSTANCE, "instance": "a"}], wide=False)

    assert [row.split()[0] for row in rows] == ["INSTANCE", "a", "z"]
