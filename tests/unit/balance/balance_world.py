"""Members for the tests of balance, made as the directory makes them."""

from collections.abc import Mapping
from typing import NamedTuple

from bus_mesh.balance.directory import Member


class Announced(NamedTuple):
    id: str
    version: str = "1.0.0"
    labels: Mapping[str, str] = {}
    state: str = "up"
    load: int = 0


def member(id: str, version: str = "1.0.0", **labels: str) -> Member[str]:
    return Member(f"node-{id}", f"peer-{id}", "orders", Announced(id, version, labels))


def members(count: int) -> list[Member[str]]:
    return [member(f"i{number}") for number in range(count)]
