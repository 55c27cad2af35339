"""What each role may do at the broker, from the table of subjects (`docs/protocol.md`, `docs/security.md`).

This is the second line of defence: envelopes are sealed and signed whoever is on the bus. The broker keeps a node out
of what is none of its business at all: another's inbox, the group of a service that it was not granted, the control
subject, the subject on which only the server says that nobody is there.

A queue permission, `"mesh.demo.rpc.orders.* orders"`, lets its holder join that group and subscribe in no other way:
without the queue it would be handed every call. `allow_responses` is never used: it goes past what is denied.

Pure.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from bus_mesh.bus.pattern import check_pattern
from bus_mesh.protocol import names
from bus_mesh.protocol.subjects import EVERYONE, Subjects, is_outside

__all__ = ["Permissions", "account_pusher", "client", "joiner", "node", "policy_agent"]

CLAIMS_UPDATE: Final = "$SYS.REQ.CLAIMS.UPDATE"
"""Where servers take in the newer token of an account; in the system account."""
INBOXES: Final = "_INBOX.>"
_ANY: Final = "*"
_DISCOVERY: Final = tuple(f"$SRV.{verb}{rest}" for verb in ("PING", "INFO", "STATS") for rest in ("", ".>"))
"""What services of NATS answer to (ADR-32)."""


class Permissions(NamedTuple):
    """What a user of the broker may do, and nothing besides; an empty tuple is nothing at all."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    """Patterns; one with a queue group after a blank is for that group alone."""
    never_publish: tuple[str, ...] = ()
    """Denied whatever `publish` allows."""


def node(mesh: str, name: str, serve: Iterable[str] = (), call_as: Iterable[str] = ()) -> Permissions:
    """Return what the agent of a node may do that hosts `serve` and speaks for `call_as`; raise InvalidName."""
    subjects, name = Subjects(mesh), names.node_name(name)
    serve, call_as = sorted(set(map(names.service_name, serve))), sorted(set(map(names.service_name, call_as)))
    calls = (subjects.rpc(_ANY, _ANY),) if serve or call_as else ()
    publish = (
        *calls,
        subjects.inbox(_ANY, _ANY),
        subjects.find(_ANY, name),
        subjects.found(_ANY, name),
        subjects.control("get", name),
        subjects.control("ack", name),
        subjects.control(_ANY, name),
        subjects.command(_ANY),  # an operator has no user of its own: any agent passes its commands on
        INBOXES,
    )
    subscribe = (
        *(f"{subjects.rpc_of(service)} {service}" for service in serve),
        subjects.inbox(name, _ANY),
        subjects.none_of(name, _ANY),
        *(subjects.find_of(service) for service in (*serve, EVERYONE)),
        subjects.found_of(_ANY),
        subjects.policy,
        subjects.command(name),
        *_DISCOVERY,
    )
    return Permissions(publish, subscribe, _reserved(subjects))


def policy_agent(mesh: str, name: str) -> Permissions:
    """Return what a policy agent may do: what a node may that hosts and calls nothing, and the control subjects."""
    subjects, as_node = Subjects(mesh), node(mesh, name)
    return Permissions(
        (*as_node.publish, subjects.policy, subjects.enrolled(_ANY)),
        (*as_node.subscribe, *subjects.control_all(), subjects.enrol(_ANY)),
        as_node.never_publish,
    )


def joiner(mesh: str, id: str) -> Permissions:
    """Return what the holder of an admission token may do: ask once, and hear the answer. Raises ValueError."""
    if not names.is_token(id):
        raise ValueError(f"{id[:100]!r} cannot stand in a subject: 1 to 95 of a-z 0-9 -")
    subjects = Subjects(mesh)
    return Permissions((subjects.enrol(id),), (subjects.enrolled(id),), _reserved(subjects))


def client(
    mesh: str, name: str, call: Iterable[str] = (), ask: Iterable[str] = (), answer: Iterable[str] = ()
) -> Permissions:
    """Return what a plain client of NATS may do: discover services, ask those in `call`, hear its own answers.

    `ask` are patterns of subjects outside of the mesh that it may ask, `answer` those that it may serve; whoever serves
    publishes to everybody's inboxes. Its own begin `_INBOX.<name>.`, so that it reads nobody else's. Raises
    InvalidName, and ValueError for a pattern that is none, or reaches into a mesh.
    """
    subjects, name = Subjects(mesh), names.node_name(name)
    asked = (subjects.rpc_of(service) for service in sorted(set(map(names.service_name, call))))
    ask, answer = (tuple(sorted(set(map(_outside, patterns)))) for patterns in (ask, answer))
    answers = (INBOXES,) if answer else ()
    discovered = _DISCOVERY if answer else ()
    return Permissions(
        (*_DISCOVERY, *asked, *ask, *answers), (f"_INBOX.{name}.>", *discovered, *answer), _reserved(subjects)
    )


def account_pusher(inbox: str) -> Permissions:
    """Return what a user of the system account may do that hands servers the newer token of an account."""
    return Permissions((CLAIMS_UPDATE,), (inbox,))


def _outside(pattern: str) -> str:
    check_pattern(pattern)
    if not is_outside(pattern):
        raise ValueError(f"{pattern!r} reaches into a mesh, into inboxes or into what is the broker's")
    return pattern


def _reserved(subjects: Subjects) -> tuple[str, ...]:
    # The server needs no permission to say that nobody is there; so whoever else says it lies.
    return (f"{subjects.root}.none.>",)
