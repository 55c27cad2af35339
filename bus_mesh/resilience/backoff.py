"""How long a call pauses before its next try.

Exponential backoff with full jitter: callers that failed together come back spread over the whole pause, which needs
the fewest calls of all kinds of jitter (Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015).
"""

from bus_mesh.policy import traffic


def pause(policy: traffic.Retry, tries: int, jitter: float, now: float, deadline: float) -> float | None:
    """Return the seconds before the next try, after `tries` of them (at least 1), or None when it would be too late.

    `jitter` is drawn evenly from 0.0 to 1.0; `now` and `deadline` are monotonic seconds.
    """
    drawn: float = min(policy.longest_pause, policy.pause * (1 << (tries - 1))) * jitter
    return drawn if now + drawn < deadline else None
