"""Which subject is for which subscription: NATS' rules.

Pure. Tokens are separated by dots; in a pattern `*` stands for one token and a last `>` for one or more. In a published
subject both are ordinary characters: a broker delivers a message to `rpc.pay.*`, literally, to who subscribed to it.
"""

_BLANK = frozenset(" \t\r\n")


def check_subject(subject: str) -> None:
    """Raise ValueError for what cannot be published to; a line break in one would be a second command to a broker."""
    if not subject or not _BLANK.isdisjoint(subject):
        raise ValueError(f"{subject!r} is not a subject: it is empty or holds a blank")


def check_pattern(pattern: str) -> None:
    """Raise ValueError for what cannot be subscribed to."""
    check_subject(pattern)
    tokens = pattern.split(".")
    for place, token in enumerate(tokens, start=1):
        inside = len(token) > 1 and ("*" in token or ">" in token)
        if not token or inside or (token == ">" and place < len(tokens)):
            raise ValueError(f"{pattern!r} is not a pattern: token {place} is empty or misuses a wildcard")


def is_literal(pattern: str) -> bool:
    """Whether it names a single subject."""
    return not any(token in ("*", ">") for token in pattern.split("."))


def matches(pattern: str, subject: str) -> bool:
    """Whether a message to `subject` is for a subscription to `pattern`."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(given) <= len(wanted):
            return False
    elif len(wanted) != len(given):
        return False
    return all(want in ("*", have) for want, have in zip(wanted, given, strict=False))
