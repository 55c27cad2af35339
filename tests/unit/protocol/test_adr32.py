import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.protocol.errors import Code
from bus_mesh.protocol.micro import VERBS, Count, Served, failure, parse, said, semver

SEMVER = re.compile(  # as the schemas of the ADR have it
    r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
    r"(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?$"
)


def served() -> Served:
    busy = Count()
    busy.requests, busy.errors, busy.seconds, busy.last_error = 3, 1, 0.5, "5:gone"
    endpoints = {"get": busy, "create": Count()}
    return Served("orders", "node-a-1", "1.2", {"zone": "x"}, 1_800_000_000_000_042, "mesh.demo.rpc.orders.", endpoints)


@pytest.mark.parametrize("verb", VERBS)
def test_the_nine_forms_are_told_apart(verb: str) -> None:
    assert parse(f"$SRV.{verb}") == (verb, "", "")
    assert parse(f"$SRV.{verb}.orders") == (verb, "orders", "")
    assert parse(f"$SRV.{verb}.orders.node-a-1") == (verb, "orders", "node-a-1")


@given(st.text(max_size=60))
def test_whatever_else_comes_is_no_question(text: str) -> None:
    for subject in (text, f"$SRV.{text}", f"$SRV.PING.{text}.x.y"):
        found = parse(subject)
        assert found is None or (found[0] in VERBS and ".".join(["$SRV", *filter(None, found)]) == subject)


def test_ping_info_and_stats_say_all_that_they_must_and_nothing_else() -> None:
    head = {"name": "orders", "id": "node-a-1", "version": "1.2.0", "metadata": {"zone": "x", "version": "1.2"}}
    endpoint = {"name": "get", "subject": "mesh.demo.rpc.orders.get", "queue_group": "orders"}
    none: dict[str, Any] = {"num_requests": 0, "num_errors": 0, "last_error": ""}
    ping, info, stats = (json.loads(said(verb, served())) for verb in VERBS)

    assert ping == {"type": "io.nats.micro.v1.ping_response", **head}
    assert info["endpoints"][0] == {**endpoint, "metadata": {}}
    assert {key: info[key] for key in head} == head
    assert (info["type"], type(info["description"])) == ("io.nats.micro.v1.info_response", str)
    assert (stats["type"], stats["started"]) == ("io.nats.micro.v1.stats_response", "2027-01-15T08:00:00.000042Z")
    busy = {"num_requests": 3, "num_errors": 1, "last_error": "5:gone"}
    spent = {"processing_time": 500_000_000, "average_processing_time": 166_666_666}
    create = {"name": "create", "subject": "mesh.demo.rpc.orders.create"}
    assert stats["endpoints"][0] == {**endpoint, **busy, **spent}
    assert stats["endpoints"][1] == {**endpoint, **create, **none, "processing_time": 0, "average_processing_time": 0}


@given(st.text(max_size=20) | st.from_regex(r"[0-9.+a-z-]{1,12}", fullmatch=True))
def test_every_version_becomes_one_that_services_of_nats_may_have(version: str) -> None:
    assert SEMVER.match(semver(version))


@pytest.mark.parametrize(("code", "status"), [(Code.PERMISSION_DENIED, "403"), (Code.UNKNOWN, "500"), (99, "500")])
def test_a_failure_has_a_code_that_clients_of_nats_know(code: int, status: str) -> None:
    assert failure(int(code), "why") == {"Nats-Service-Error": "why", "Nats-Service-Error-Code": status}
