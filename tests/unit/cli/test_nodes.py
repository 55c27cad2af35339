"""`busmesh node list`: who is up, who is silent, who is out."""

from typing import Any

from bus_mesh.cli.nodes import rows_of


def test_a_node_is_up_silent_or_revoked() -> None:
    acks = [{"node": "b", "number": 4, "age_us": 100}, {"node": "c", "number": 3, "age_us": 60_000_000}]
    said: dict[str, Any] = {"number": 4, "acks": acks, "revoked": {"nodes": ["a"], "operators": []}}

    assert [(row["node"], row["state"], row["policy"]) for row in rows_of(said)] == [
        ("a", "revoked", None),
        ("b", "up", 4),
        ("c", "silent", 3),
    ]
