"""The programs that an agent starts and keeps: what stands under `services:` in node.yaml."""

import re
import shlex
import signal
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from bus_mesh.policy.models import Document, ServiceName
from bus_mesh.policy.problems import refuse
from bus_mesh.policy.units import Duration, seconds_within

__all__ = ["Limits", "PlacedPath", "Principal", "Program", "Ready", "Restart", "as_text"]

_SIZE: Final = re.compile(r"([0-9]{1,9}) ?(KiB|MiB|GiB)")
_SIZES: Final = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class Restart(StrEnum):
    """When a program that ended is started again."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


def _placed(path: Path, info: ValidationInfo) -> Path:
    base: Path = (info.context or {}).get("base", Path())
    return base / path


def _split(written: object) -> object:
    if not isinstance(written, str):
        return written
    try:
        return shlex.split(written)
    except ValueError as error:
        raise refuse(f"not a command line: {error}", "write it as a list: [python, -m, shop]") from None


def _signal(name: str) -> str:
    if name not in signal.Signals.__members__:
        raise refuse(f"{name[:40]!r} is no signal", "write SIGTERM, SIGINT or SIGQUIT")
    return name


def _bytes(written: object) -> object:
    match = _SIZE.fullmatch(written) if isinstance(written, str) else None
    if match is None:
        raise refuse("must be a number of bytes with its unit", "write 512MiB or 2GiB")
    return int(match[1]) * _SIZES[match[2]]


def _ready(written: object) -> object:
    return {"when": written} if isinstance(written, str) else written


def as_text(written: object) -> object:
    """Return a number as the text that it is meant as; for pydantic to call."""
    # An id is a number to whoever writes it, and a name everywhere else.
    return str(written) if isinstance(written, int) and not isinstance(written, bool) else written


PlacedPath = Annotated[Path, AfterValidator(_placed)]
Principal = Annotated[str, BeforeValidator(as_text), Field(min_length=1, max_length=64)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\z")]


class Limits(Document):
    """What a process may use of the machine; the kernel holds it to that."""

    memory: Annotated[int, BeforeValidator(_bytes), Field(ge=1 << 20)] | None = None
    """Bytes of data (RLIMIT_DATA): heap and private memory, not code or files. None: no limit of ours."""
    open_files: int | None = Field(default=None, ge=16)

    @property
    def given(self) -> dict[str, int]:
        """Those that are set, by name."""
        return {name: most for name, most in self.model_dump().items() if most is not None}


class Ready(Document):
    """When a program counts as ready: it serves, or it has run for a second, or a command says so."""

    when: Literal["served", "started"] = "served"
    command: Annotated[tuple[str, ...], BeforeValidator(_split), Field(min_length=1)] | None = None
    """Run again and again, with the program's environment, until it exits with 0; goes before `when`."""


class Program(Document):
    """A program that the agent starts and keeps."""

    command: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(min_length=1)
    """A list of words, or one line that is split as a shell splits it; no shell runs it."""
    app: ServiceName | None = None
    """The app it speaks as; None: the name it stands under. `app_of` tells."""
    env: Mapping[Variable, str] = {}
    """Added to the agent's own environment."""
    cwd: PlacedPath | None = None
    user: Principal | None = None
    replicas: int = Field(default=1, ge=0, le=64)
    restart: Restart = Restart.ALWAYS
    stop_signal: Annotated[str, AfterValidator(_signal)] = "SIGTERM"
    grace: Duration = 10.0
    """Seconds that calls have to end once nothing new comes; and again between the stop signal and SIGKILL."""
    ready: Annotated[Ready, BeforeValidator(_ready)] = Ready()
    ready_timeout: Annotated[float, seconds_within(0.1, 600.0)] = 30.0
    """Seconds after which a program that is not ready has failed to start: its predecessor, if any, stays."""
    limits: Limits = Limits()
