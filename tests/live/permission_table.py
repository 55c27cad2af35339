"""The table of subjects as a test reads it: for each, which roles may publish there and which may subscribe.

Written by hand and not computed, so that a slip in what computes permissions is found.
"""

from typing import NamedTuple

from broker_world import attempt

from bus_mesh.bus.access import Access
from bus_mesh.control import permissions

NODE, POLICY, JOINER = "node", "policy agent", "joiner"
ROLES = {
    NODE: permissions.node("demo", "node-a", ["orders"], ["web"]),
    POLICY: permissions.policy_agent("demo", "control"),
    JOINER: permissions.joiner("demo", "j1"),
}
NAMED = {NODE: "node-a", POLICY: "control", JOINER: "j1"}


class Row(NamedTuple):
    """A subject, ME standing for who tries it; which roles may publish there, and which may subscribe."""

    subject: str
    publish: set[str]
    subscribe: set[str]


BOTH, NOBODY = {NODE, POLICY}, set[str]()
TABLE = [
    # Calls: published by who speaks for a service; joined as the group of a granted service, and in no other way.
    Row("rpc.orders.get", {NODE}, NOBODY),
    Row("rpc.orders.* orders", NOBODY, {NODE}),
    Row("rpc.orders.get orders", NOBODY, {NODE}),
    Row("rpc.orders.*", NOBODY, NOBODY),
    Row("rpc.orders.* stock", NOBODY, NOBODY),
    # To the server `>` is one of the tokens that `*` stands for; there is nothing deeper to hear.
    Row("rpc.orders.> orders", NOBODY, {NODE}),
    Row("rpc.orders.get.deeper", NOBODY, NOBODY),
    Row("rpc.stock.get", {NODE}, NOBODY),
    Row("rpc.stock.* stock", NOBODY, NOBODY),
    Row("rpc.stock.* orders", NOBODY, NOBODY),
    Row("rpc.*.* orders", NOBODY, NOBODY),
    Row("rpc.>", NOBODY, NOBODY),
    # Inboxes: anybody's for whoever has something to say, one's own to listen.
    Row("node.ME.boot1", BOTH, BOTH),
    Row("node.ME.*", NOBODY, BOTH),
    Row("node.node-b.boot1", BOTH, NOBODY),
    Row("node.node-b.boot1 group", NOBODY, NOBODY),
    Row("node.*.*", NOBODY, NOBODY),
    Row("*.ME.boot1", NOBODY, NOBODY),
    # Only the server says that nobody is there.
    Row("none.ME.boot1.7", NOBODY, BOTH),
    Row("none.ME.boot1.*", NOBODY, BOTH),
    Row("none.node-b.boot1.7", NOBODY, NOBODY),
    Row("none.>", NOBODY, NOBODY),
    # Questions in one's own name; heard by who serves it, and those to all by all.
    Row("find.orders.ME", BOTH, {NODE}),
    Row("find.orders.*", NOBODY, {NODE}),
    Row("find.stock.ME", BOTH, NOBODY),
    Row("find.stock.*", NOBODY, NOBODY),
    Row("find._.ME", BOTH, BOTH),
    Row("find._.*", NOBODY, BOTH),
    Row("find.orders.node-b", NOBODY, {NODE}),
    Row("find.*.*", NOBODY, NOBODY),
    # Announcements in one's own name.
    Row("found.orders.ME", BOTH, BOTH),
    Row("found.orders.*", NOBODY, BOTH),
    Row("found.orders.node-b", NOBODY, BOTH),
    Row("found.*.*", NOBODY, BOTH),
    # Events are granted to nobody yet.
    Row("event.paid", NOBODY, NOBODY),
    # The control plane.
    Row("ctl.policy", {POLICY}, BOTH),
    Row("ctl.policy.get.ME", BOTH, {POLICY}),
    Row("ctl.policy.get.node-b", NOBODY, {POLICY}),
    Row("ctl.policy.get.*", NOBODY, {POLICY}),
    Row("ctl.ack.ME", BOTH, {POLICY}),
    Row("ctl.ack.node-b", NOBODY, {POLICY}),
    Row("ctl.ack.*", NOBODY, {POLICY}),
    Row("ctl.node.ME", BOTH, BOTH),
    Row("ctl.node.node-b", BOTH, NOBODY),
    Row("ctl.node.*", NOBODY, NOBODY),
    Row("ctl.api.revoke.ME", BOTH, {POLICY}),
    Row("ctl.api.revoke.node-b", NOBODY, {POLICY}),
    Row("ctl.api.*.*", NOBODY, {POLICY}),
    Row("ctl.>", NOBODY, NOBODY),
    # Observation, told in one's own name, seen by operators through any agent.
    # Admission: one's own answer, and no other joiner's.
    Row("enrol.j1", {JOINER}, {POLICY}),
    Row("enrol.j2", NOBODY, {POLICY}),
    Row("enrol.*", NOBODY, {POLICY}),
    Row("enrolled.j1", {POLICY}, {JOINER}),
    Row("enrolled.j2", {POLICY}, NOBODY),
    Row("enrolled.*", NOBODY, NOBODY),
    # All of it.
    Row(">", NOBODY, NOBODY),
]
OUTSIDE = [
    Row("$SRV.PING", NOBODY, BOTH),
    Row("$SRV.INFO.orders", NOBODY, BOTH),
    Row("$SRV.STATS.orders.id1", NOBODY, BOTH),
    Row("$SRV.>", NOBODY, NOBODY),
    Row("_INBOX.someone", BOTH, NOBODY),
    Row("_INBOX.>", NOBODY, NOBODY),
    Row("$SYS.REQ.CLAIMS.UPDATE", NOBODY, NOBODY),
    Row("$SYS.REQ.SERVER.PING", NOBODY, NOBODY),
    Row("$SYS.>", NOBODY, NOBODY),
    Row("$JS.API.INFO", NOBODY, NOBODY),
    Row("mesh.other.rpc.orders.get", NOBODY, NOBODY),
    Row("mesh.other.node.node-a.boot1", NOBODY, NOBODY),
    Row("anything", NOBODY, NOBODY),
    Row(">", NOBODY, NOBODY),
]


def rows(role: str) -> dict[str, Row]:
    """Return the table by the subjects that a role would name."""
    inside = {f"mesh.demo.{row.subject}".replace("ME", NAMED[role]): row for row in TABLE}
    return inside | {row.subject: row for row in OUTSIDE}


async def hold_to_the_table(role: str, url: str, access: Access) -> None:
    """Try every row both ways, and compare what the server let pass."""
    table = rows(role)
    # A wildcard, or a group, is nothing to publish to.
    literal = [subject for subject in table if not set(subject) & set("*> ")]
    may_publish, may_subscribe = await attempt(url, access, literal, table)

    assert may_publish == {subject for subject, row in table.items() if role in row.publish}
    assert may_subscribe == {subject for subject, row in table.items() if role in row.subscribe}
