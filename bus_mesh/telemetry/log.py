"""Log lines: JSON on stderr, readable on a terminal, never a payload, a key or a token.

`configure` once at the start of a process and again to change the level; loggers got before or after follow it. What
other libraries say through `logging` comes out the same way. A line costs 10 µs, so calls that end well write none.
"""

import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, Literal, TextIO, cast

# structlog loads rich for tracebacks, which we draw without, wherever it is installed: as here, through typer. In an
# agent that is 70 ms of its start and 3 MiB for good.
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]

import structlog  # noqa: E402
from structlog.typing import FilteringBoundLogger, Processor  # noqa: E402

from bus_mesh import clock  # noqa: E402

if sys.modules["rich"] is None:
    del sys.modules["rich"]  # typer shows its help with it

__all__ = ["Format", "Level", "Limited", "configure", "get_logger"]

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "console", "auto"]

WITHHELD: Final = frozenset(
    ("payload", "params", "result", "body", "data", "key", "private", "secret", "seed", "token", "password", "jwt"),
)
"""Fields that are never written, whoever passes them."""
MAX_TEXT: Final = 2_000
"""Characters of one field."""
_TLS_END: Final = "eof_received() has no effect when using ssl"
"""What asyncio says at the end of each connection that began in the clear, as those of NATS do: nothing follows."""
MAX_EVENTS: Final = 1_000
"""Event names that a Limited logger tells apart."""


def get_logger(name: str) -> FilteringBoundLogger:
    """Return a logger whose lines carry `logger: name`."""
    return cast(FilteringBoundLogger, structlog.get_logger(name))


def configure(
    level: Level = "info", format: Format = "auto", stream: TextIO | None = None, **fields: str
) -> None:  # "format" is what node.yaml calls it
    """Send log lines of `level` and above to `stream` (stderr), each with `fields` (node="a").

    `auto` is `console` on a terminal and `json` elsewhere.
    """
    out = sys.stderr if stream is None else stream
    console = format == "console" or (format == "auto" and out.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            _adding(fields),
            _name,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_ending(console, colours=console and out.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda name: _Line(out, name),
        cache_logger_on_first_use=False,  # or a new level would not reach loggers already in use
    )
    root = logging.getLogger()
    for bridge in [handler for handler in root.handlers if isinstance(handler, _Bridge)]:
        root.removeHandler(bridge)
    root.addHandler(_Bridge(max(number, logging.WARNING)))  # what libraries say below it is about themselves


def _ending(console: bool, colours: bool) -> list[Processor]:
    # Neither way of showing an exception shows variables: they hold payloads and keys.
    if console:
        plain = structlog.dev.plain_traceback
        return [_withhold, _printable, structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)]
    return [structlog.processors.format_exc_info, _withhold, structlog.processors.JSONRenderer(default=str)]


def _adding(fields: Mapping[str, str]) -> Processor:
    def add(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for name, value in fields.items():
            event.setdefault(name, value)
        return event

    return add


def _name(line: Any, _: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["logger"] = line.name
    return event


def _withhold(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if name in WITHHELD:
            event[name] = "(withheld)"
        elif isinstance(value, bytes | bytearray | memoryview):
            event[name] = f"({len(value)} bytes)"
        elif isinstance(value, str) and len(value) > MAX_TEXT and name != "exception":
            event[name] = value[:MAX_TEXT] + "…"
    return event


def _printable(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep a stranger's text from moving the terminal's cursor or starting a line of its own."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = repr(value)
    return event


class _Line:
    """Writes lines. A stream that is gone loses them, and never the call that was being served."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self.name = stream, name

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return

    debug = info = warning = error = critical = exception = msg


class _Bridge(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit the message are the library's mistake, not ours to die of
            message = str(record.msg)
        if record.name == "asyncio" and _TLS_END in message:
            return
        logger = get_logger(record.name)
        # Levels in between are allowed to libraries, and unknown to structlog.
        say = logger.error if record.levelno >= logging.ERROR else logger.warning
        say(message, exc_info=record.exc_info or None)


class Limited:
    """Writes at most `per_minute` lines of one event a minute, and then how many it kept to itself.

    For what strangers can cause: a flood of bad frames must not become a flood of lines.
    """

    def __init__(
        self, logger: FilteringBoundLogger, per_minute: int = 10, now: Callable[[], float] = clock.monotonic
    ) -> None:
        self._logger, self._per_minute, self._now = logger, per_minute, now
        self._windows: dict[str, _Window] = {}

    def warning(self, event: str, **fields: object) -> bool:
        """Write the line, with `suppressed` if some before it were not; tell whether it was written."""
        return self._write(self._logger.warning, event, fields)

    def info(self, event: str, **fields: object) -> bool:
        """Write a line that asks for nothing, as `warning` does."""
        return self._write(self._logger.info, event, fields)

    def _write(self, write: Callable[..., object], event: str, fields: dict[str, object]) -> bool:
        now = self._now()
        if event not in self._windows and len(self._windows) >= MAX_EVENTS:
            event, fields = "other events", {}
        window = self._windows.setdefault(event, _Window(now))
        if now - window.since >= 60.0:
            window.since, window.written = now, 0
        if window.written >= self._per_minute:
            window.suppressed += 1
            return False
        window.written += 1
        if window.suppressed:
            fields["suppressed"], window.suppressed = window.suppressed, 0
        write(event, **fields)
        return True


class _Window:
    __slots__ = ("since", "suppressed", "written")

    def __init__(self, since: float) -> None:
        self.since, self.written, self.suppressed = since, 0, 0
