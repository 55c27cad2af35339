"""When a process of a node started, later than at any start before: others believe only the newest start of a node."""

import contextlib
from pathlib import Path

__all__ = ["boot_started_us"]


def boot_started_us(state: Path, now_us: int) -> int:
    """Return a start time later than that of any start before, also where the clock was set back, and note it.

    Others believe only the newest boot of a node: one that seems older would go unheard for two minutes.
    """
    file, before = state / "boot", 0
    with contextlib.suppress(OSError, ValueError):
        before = int(file.read_text())
    started = max(now_us, before + 1)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_text(f"{started}\n")
    fresh.replace(file)
    return started
