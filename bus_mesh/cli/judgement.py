"""What `busmesh check` makes of what it found: each thing good, doubtful or wrong, and what to do about it. Pure."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

__all__ = ["Checked", "Facts", "Mark", "judged", "span"]

CLOCK_WARN: Final = 1.0
CLOCK_WRONG: Final = 60.0
"""Seconds that two clocks may differ: over a minute their nodes refuse each other's calls."""
THIRD: Final = 3
"""A certificate is renewed at half of its life; with less than a third of it left, that fails."""
OUTSIDE_WARN_US: Final = 7 * 24 * 3600 * 1_000_000
"""With less left of a way out's user somebody has to make another one: they last 30 days, and nobody renews them."""
MOST_NAMED: Final = 8


class Mark(StrEnum):
    """How something is."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    WRONG = "wrong"


class Checked(NamedTuple):
    """One line: what was looked at, how it is, and where it is not good the reason and what to do."""

    group: str
    what: str
    mark: Mark
    why: str = ""
    hint: str = ""


class Facts(NamedTuple):
    """What was found. Times are microseconds since 1970 by this machine's clock.

    `answers` are what agents answer to `stats`, `ahead_us` how far the clock of each is ahead of this one, `silent` why
    others gave none, `ended_us` how long ago the certificates of some ended. `policy` is the policy agent's word, None
    with `why_no_policy`.
    """

    now_us: int
    agent: Mapping[str, Any]
    nodes: list[dict[str, Any]]
    instances: list[dict[str, Any]]
    answers: Mapping[str, Mapping[str, Any]]
    ahead_us: Mapping[str, int]
    ended_us: Mapping[str, int]
    silent: Mapping[str, str]
    policy: Mapping[str, Any] | None
    why_no_policy: str


def judged(facts: Facts) -> list[Checked]:
    """Return a line for each thing that is looked at."""
    return [*_agents(facts), *_clocks(facts), *_certificates(facts), *_policy(facts), *_services(facts)]


def _line(group: str, what: str, wrong: Mapping[str, str], hint: str, mark: Mark = Mark.WRONG) -> Checked:
    """Return one line about all nodes: good, or `mark` with those that are not so."""
    if not wrong:
        return Checked(group, what, Mark.GOOD)
    named = [f"{name} {why}" for name, why in sorted(wrong.items())]
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return Checked(group, what, mark, ", ".join(named[:MOST_NAMED]) + more, hint)


def _said(facts: Facts) -> dict[str, Mapping[str, Any]]:
    """Return how agents are, by their own word: this node's is heard without the bus."""
    return {facts.agent["node"]: facts.agent} | {name: answer["status"] for name, answer in facts.answers.items()}


def _agents(facts: Facts) -> Iterator[Checked]:
    group, said = "agents", _said(facts)
    yield Checked(group, f"the agent of {facts.agent['node']} answers", Mark.GOOD)
    hint = "is it running, and on the bus? its log says so"
    yield _line(group, f"all {len(facts.nodes)} nodes answer operators", facts.silent, hint)
    acks = facts.policy.get("acks", ()) if facts.policy is not None else ()
    here = {node["node"] for node in facts.nodes}
    gone = {ack["node"]: f"has been silent for {span(ack['age_us'])}" for ack in acks if ack["node"] not in here}
    hint = "start its agent, whose log says what it lacks; if it is gone for good: busmesh node revoke NODE"
    yield _line(group, "no node that the policy agent knows is missing", gone, hint, Mark.DOUBTFUL)
    away = {name: f"is {one['bus']}" for name, one in said.items() if one["bus"] != "connected"}
    yield _line(group, "all are connected to the bus", away, "bus.url, bus.credentials and bus.tls in its node.yaml")
    yield from _ways_out(group, {name: one for name, one in said.items() if one.get("outside")}, facts.now_us)
    leaving = {name: "is draining" for name, one in said.items() if one["draining"]}
    yield _line(group, "none is draining", leaving, "busmesh undrain NODE, or wait until it is gone", Mark.DOUBTFUL)
    versions = {name: one["version"] for name, one in said.items()}
    mixed = {name: f"runs {version}" for name, version in versions.items()} if len(set(versions.values())) > 1 else {}
    yield _line(group, "all run the same version", mixed, "bring all to one version", Mark.DOUBTFUL)


def _ways_out(group: str, said: Mapping[str, Mapping[str, Any]], now_us: int) -> Iterator[Checked]:
    """Yield how the ways of some nodes to plain services of NATS are."""
    if not said:
        return
    states = {name: one["outside"] for name, one in said.items() if one["outside"] != "connected"}
    lost = {name: f"has a way to plain services that is {state}" for name, state in states.items()}
    hint = "micro in its node.yaml; a user that has ended: busmesh nats client NODE --ask SUBJECT --out FILE"
    yield _line(group, "all ways out of the mesh are connected", lost, hint)
    left = {name: one["outside_ends_us"] - now_us for name, one in said.items() if one.get("outside_ends_us")}
    ends = {name: f"has a user for that with {span(us)} left" for name, us in left.items() if 0 < us < OUTSIDE_WARN_US}
    hint = "busmesh nats client NODE --ask SUBJECT --out FILE, over the file that its micro names"
    yield _line(group, "their users last for another week", ends, hint, Mark.DOUBTFUL)


def _clocks(facts: Facts) -> Iterator[Checked]:
    off = {name: ahead / 1e6 for name, ahead in facts.ahead_us.items() if abs(ahead) > CLOCK_WARN * 1e6}
    told = {name: f"is {abs(by):.1f} s {'ahead' if by > 0 else 'behind'}" for name, by in off.items()}
    wrong = any(abs(by) > CLOCK_WRONG for by in off.values())
    hint = "set the clock by NTP: timedatectl set-ntp true; over 60 s calls are refused"
    mark = Mark.WRONG if wrong else Mark.DOUBTFUL
    yield _line("clocks", "clocks differ by less than a second", told, hint, mark)


def _certificates(facts: Facts) -> Iterator[Checked]:
    group = "certificates"
    ends = {node["node"]: node["cert_expires_us"] for node in facts.nodes if node["cert_expires_us"]}
    since = {name: facts.now_us - at for name, at in ends.items() if at <= facts.now_us} | dict(facts.ended_us)
    over = {name: f"ended {span(us)} ago" for name, us in since.items()}
    hint = "admit it anew: busmesh token create NODE, then busmesh agent --join TOKEN there"
    yield _line(group, "no certificate has ended", over, hint)
    late = {}
    for name, status in _said(facts).items():
        left, life = status["cert_expires_us"] - facts.now_us, status["cert_expires_us"] - status["cert_issued_us"]
        if name not in over and 0 < left < life / THIRD:
            late[name] = f"has {span(left)} left of {span(life)}"
    hint = "is the policy agent running, with the issuer's key? its log says why it renews none"
    yield _line(group, "all are renewed in time", late, hint, Mark.DOUBTFUL)


def _policy(facts: Facts) -> Iterator[Checked]:
    group, said = "policy", _said(facts)
    hint = "busmesh policy-agent -c policy.yaml, and its log; what is in force stays"
    expired = {name: "has one that is" for name, one in said.items() if one["policy_state"] == "expired"}
    yield _line(group, "no policy has expired", expired, hint)
    stale = {name: "has heard nothing for a while" for name, one in said.items() if one["policy_state"] == "stale"}
    yield _line(group, "all know whether theirs is the newest", stale, hint, Mark.DOUBTFUL)
    if facts.policy is None:
        yield Checked(group, "the policy agent answers", Mark.WRONG, facts.why_no_policy, hint)
        return
    newest = facts.policy["number"]
    yield Checked(group, "the policy agent answers", Mark.GOOD)
    behind = {name: f"has bundle {one['policy']}" for name, one in said.items() if one["policy"] != newest}
    yield _line(group, f"bundle {newest} is in force everywhere", behind, "busmesh status: who refused it, and why")


def _services(facts: Facts) -> Iterator[Checked]:
    group, hint = "services", "busmesh describe service NAME; busmesh service logs NAME"
    found = facts.instances
    bad = {one["instance"]: f"of {one['service']} is {one['state']}" for one in found if one["state"] in _BAD}
    yield _line(group, "no instance is full or unwell", bad, hint, Mark.DOUBTFUL)
    up = {one["service"] for one in found if one["state"] == "up"}
    down = {one["service"]: "has nobody up" for one in found if one["service"] not in up}
    yield _line(group, "every service has an instance that is up", down, hint)


_BAD: Final = ("full", "unwell")


def span(us: int) -> str:
    """Return a span of microseconds in words."""
    seconds = us / 1e6
    for longest, unit, size in ((120, "s", 1), (7200, "min", 60)):
        if seconds < longest:
            return f"{seconds / size:.0f} {unit}"
    count = seconds / 3600
    return f"{count:.1f} h" if count < 48 else f"{count / 24:.0f} days"
