"""Every subject of a mesh, built here and taken apart here, nowhere else.

All start `mesh.<mesh>.`, so several meshes may share a bus. Builders take validated names only: the caller has passed
them through `names`, and what comes off the bus is matched against the same patterns again, because a broker delivers a
message published to the literal subject `…rpc.pay.*` to whoever subscribed to it.
"""

from typing import Final

from bus_mesh.protocol import names

EVERYONE = "_"
"""Stands where a service would in a `find` that asks for every node."""
_CONTROL: Final = {"get": "policy.get", "ack": "ack"}  # what has a place of its own; the rest is the API


def is_outside(subject: str) -> bool:
    """Tell whether a subject, or a pattern, is no mesh's and nothing that the broker keeps for itself and for inboxes.

    Its first token is then plain text, so that a pattern cannot reach round.
    """
    first = subject.partition(".")[0]
    return first not in ("", "mesh", "*", ">") and first[0] not in "$_"


class Subjects:
    """The subjects of one mesh. `Subjects("demo").rpc("orders", "get")` is `mesh.demo.rpc.orders.get`."""

    def __init__(self, mesh: str) -> None:
        self.root = f"mesh.{names.mesh_name(mesh)}"
        self._rpc = f"{self.root}.rpc."

    def __repr__(self) -> str:
        return f"Subjects({self.root})"

    def rpc(self, service: str, method: str) -> str:
        """Where calls of a method go in queue mode."""
        return f"{self._rpc}{service}.{method}"

    def rpc_of(self, service: str) -> str:
        """What an instance subscribes to, in the queue group named like the service."""
        return f"{self._rpc}{service}.*"

    def parse_rpc(self, subject: str) -> tuple[str, str] | None:
        """Return (service, method), or None when a token is not a valid name."""
        service, _, method = subject[len(self._rpc) :].partition(".")
        if subject.startswith(self._rpc) and names.is_service(service) and names.is_method(method):
            return service, method
        return None

    def inbox(self, node: str, boot: str) -> str:
        """Where everything sealed for one agent process goes."""
        return f"{self.root}.node.{node}.{boot}"

    def parse_inbox(self, subject: str) -> tuple[str, str] | None:
        """Return (node, boot), or None when a token is not a valid name."""
        prefix = f"{self.root}.node."
        node, _, boot = subject[len(prefix) :].partition(".")
        return (node, boot) if subject.startswith(prefix) and names.is_node(node) and names.is_token(boot) else None

    def none(self, node: str, boot: str, counter: int) -> str:
        """The reply subject on which the broker says that nobody subscribes (its 503)."""
        return f"{self.root}.none.{node}.{boot}.{counter}"

    def none_of(self, node: str, boot: str) -> str:
        """What an agent subscribes to, to hear the broker's 503s."""
        return f"{self.root}.none.{node}.{boot}.*"

    def parse_none(self, subject: str) -> int | None:
        """Return the counter that a 503 answers, or None."""
        last = subject.rpartition(".")[2]
        return int(last) if last.isascii() and last.isdecimal() and len(last) <= 20 else None

    def find(self, service: str, asker: str) -> str:
        """Where `asker` asks who serves `service`."""
        return f"{self.root}.find.{service}.{asker}"

    def find_of(self, service: str) -> str:
        """What a node that serves `service` listens on."""
        return f"{self.root}.find.{service}.*"

    def find_everyone(self, asker: str) -> str:
        """Where `asker` asks for every node."""
        return self.find(EVERYONE, asker)

    def parse_find(self, subject: str) -> tuple[str, str] | None:
        """Return (service or `_`, asker), or None when a token is not a valid name."""
        return self._pair("find", subject)

    def found(self, service: str, node: str) -> str:
        """Where `node` announces that it serves `service`."""
        return f"{self.root}.found.{service}.{node}"

    def found_of(self, service: str) -> str:
        """What an agent subscribes to for a service that it calls."""
        return f"{self.root}.found.{service}.*"

    def parse_found(self, subject: str) -> tuple[str, str] | None:
        """Return (service, node), or None when a token is not a valid name."""
        return self._pair("found", subject)

    @property
    def policy(self) -> str:
        """The control subject: the signed head of the policy in force."""
        return f"{self.root}.ctl.policy"

    def control(self, verb: str, node: str) -> str:
        """Where `node` asks the policy agent in office for something."""
        return f"{self.root}.ctl.{_CONTROL.get(verb, f'api.{verb}')}.{node}"

    def control_all(self) -> tuple[str, ...]:
        """What a policy agent in office subscribes to."""
        return *(f"{self.root}.ctl.{place}.*" for place in _CONTROL.values()), f"{self.root}.ctl.api.*.*"

    def parse_control(self, subject: str) -> tuple[str, str] | None:
        """Return (verb, node) of what is asked of the policy agent, or None when a token is not a valid name."""
        place, _, node = subject.rpartition(".")
        verb = next((verb for verb, told in _CONTROL.items() if place == f"{self.root}.ctl.{told}"), "")
        prefix = f"{self.root}.ctl.api."
        if not verb and place.startswith(prefix):
            verb = place[len(prefix) :]
        return (verb, node) if names.is_method(verb) and names.is_node(node) else None

    def command(self, node: str) -> str:
        """Where operators tell `node` what to do."""
        return f"{self.root}.ctl.node.{node}"

    def enrol(self, id: str) -> str:
        """Where the holder of an admission token asks to be let in."""
        return f"{self.root}.enrol.{id}"

    def enrol_all(self) -> str:
        """What a policy agent in office subscribes to that can admit nodes."""
        return f"{self.root}.enrol.*"

    def parse_enrol(self, subject: str) -> str | None:
        """Return the id of the token by which somebody asks to be let in, or None when it is not a valid one."""
        prefix = f"{self.root}.enrol."
        id = subject[len(prefix) :]
        return id if subject.startswith(prefix) and names.is_token(id) else None

    def enrolled(self, id: str) -> str:
        """Where it is answered."""
        return f"{self.root}.enrolled.{id}"

    def _pair(self, kind: str, subject: str) -> tuple[str, str] | None:
        prefix = f"{self.root}.{kind}."
        service, _, node = subject[len(prefix) :].partition(".")
        known = service == EVERYONE or names.is_service(service)
        return (service, node) if subject.startswith(prefix) and known and names.is_node(node) else None
