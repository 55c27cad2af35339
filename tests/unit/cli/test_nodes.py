"""`busmesh node list`: who is up, who is silent, who is out."""

from typing import Any

from bus_mesh.cli.nodes import rows_of


def test_a_node_is_up_silent_or_revoked() -> None:
    acks = [
        {"node": "b", "number": 4, "age_us": 9, "live": True},
        {"node": "c", "number": 3, "age_us": 9, "live": False},
    ]
    said: dict[str, Any] = {"number": 4, "acks": acks, "revoked": {"nodes": ["a"], "operators": []}}

    assert [(row["node"], row["state"], row["policy"]) for row in rows_of(said)] == [
        ("a", "revoked", None),
        ("b", "up", 4),
        ("c", "silent", 3),
    ]
