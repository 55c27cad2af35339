"""Who an app is: decided by what the system says of the process at the other end, never by what it says itself.

Pure. `apps:` in node.yaml names who may speak as what: a user, a group, or the holder of a token that this agent gave
to a child. A name without an entry may be taken by the agent's own user and by root.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from bus_mesh.protocol.errors import MeshError, Ran, Unauthenticated


class Peer(NamedTuple):
    """The process at the other end, as the system tells (SO_PEERCRED in unix(7))."""

    pid: int
    uid: int
    groups: frozenset[int]
    token: str | None


class Rule(Protocol):
    """One entry of `apps:`; exactly one of the three is set."""

    @property
    def user(self) -> str | None:
        """A user's name or number."""

    @property
    def group(self) -> str | None:
        """A group's name or number."""

    @property
    def token(self) -> bool | None:
        """Whether a token proves it."""


class NotYours(Unauthenticated, reason="APP_NOT_YOURS"):
    """This process may not speak as the app that it names."""


class Apps:
    """Decides who may speak as an app. `admits(token, pid)` returns the app that a token proves for a process."""

    def __init__(
        self,
        rules: Mapping[str, Rule],
        granted: frozenset[str],
        own_uid: int,
        user_id: Callable[[str], int],
        group_id: Callable[[str], int],
        admits: Callable[[str, int], str | None],
    ) -> None:
        self._rules = rules
        self._granted = granted
        self._own_uid = own_uid
        self._user_id = user_id
        self._group_id = group_id
        self._admits = admits

    def __repr__(self) -> str:
        return f"Apps(rules={sorted(self._rules)}, granted={sorted(self._granted)})"

    def refusal(self, app: str, peer: Peer) -> MeshError | None:
        """Return why this process may not speak as `app`, None when it may."""
        if app not in self._granted:
            text = (
                f"this node's certificate grants nothing to {app!r:.80}: admit it with --serve or --call-as {app:.63}"
            )
            return NotYours(text, ran=Ran.NO)
        rule = self._rules.get(app)
        if rule is None:
            allowed, needed = (
                peer.uid in (0, self._own_uid),
                "the agent's user, or an entry under apps: in node.yaml",
            )
        elif rule.user is not None:
            allowed, needed = peer.uid == self._user_id(rule.user), f"user {rule.user}"
        elif rule.group is not None:
            allowed, needed = self._group_id(rule.group) in peer.groups, f"group {rule.group}"
        else:
            allowed = peer.token is not None and self._admits(peer.token, peer.pid) == app
            needed = "the token that this agent gives to the services it starts"
        if allowed:
            return None
        return NotYours(f"process {peer.pid} of user {peer.uid} may not speak as {app}: it needs {needed}", ran=Ran.NO)
