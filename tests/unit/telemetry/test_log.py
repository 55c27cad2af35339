"""Log lines: their shape, what never gets into one, and floods."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from bus_mesh.telemetry import log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    structlog.reset_defaults()
    root.handlers[:] = before


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_with_time_level_event_and_logger() -> None:
    stream = io.StringIO()
    log.configure(stream=stream, node="node-a")

    log.get_logger("agent").info("bus connected", rtt_ms=1.5)

    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"level": "info", "event": "bus connected", "logger": "agent", "node": "node-a", "rtt_ms": 1.5}


def test_payloads_keys_and_tokens_are_never_written() -> None:
    stream = io.StringIO()
    log.configure(stream=stream)

    log.get_logger("x").warning("odd frame", payload=b"secret", token="secret", key="secret", raw=b"secret", size=6)

    (line,) = lines(stream)
    assert "secret" not in stream.getvalue()
    assert (line["token"], line["raw"], line["size"]) == ("(withheld)", "(6 bytes)", 6)


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_stack_is_written_without_its_variables(format: log.Format) -> None:
    stream = io.StringIO()
    log.configure(format=format, stream=stream)
    hidden = "sesame"

    try:
        raise ValueError(str(len(hidden)))
    except ValueError:
        log.get_logger("x").exception("broke")

    assert "ValueError: 6" in stream.getvalue()
    assert "sesame" not in stream.getvalue()


def test_a_strangers_text_cannot_start_a_line_or_move_the_cursor() -> None:
    for format, stream in (("json", io.StringIO()), ("console", Terminal())):
        log.configure(format=format, stream=stream)  # type: ignore[arg-type]
        log.get_logger("x").warning("refused", caller="web\nINFO all is well\x1b[2J")

        assert len(stream.getvalue().splitlines()) == 1
        assert "\x1b[2J" not in stream.getvalue()


def test_a_terminal_gets_words_and_a_pipe_json() -> None:
    for stream, is_json in ((Terminal(), False), (io.StringIO(), True)):
        log.configure(stream=stream)
        log.get_logger("x").info("up")

        assert stream.getvalue().startswith("{") is is_json


def test_the_level_reaches_loggers_that_were_there_before() -> None:
    stream = io.StringIO()
    logger = log.get_logger("agent")
    log.configure(stream=stream)
    logger.debug("too fine")
    log.configure(level="debug", stream=stream)
    logger.debug("seen")

    assert [line["event"] for line in lines(stream)] == ["seen"]


def test_what_libraries_log_comes_out_the_same_way_once() -> None:
    stream = io.StringIO()
    log.configure(stream=stream, node="node-a")
    log.configure(stream=stream, node="node-a")

    logging.getLogger("nats").warning("slow %s", "consumer")
    logging.getLogger("nats").log(35, "in between")
    logging.getLogger("nats").info("chatter")
    logging.getLogger("asyncio").warning("returning true from eof_received() has no effect when using ssl")

    assert [(line["logger"], line["level"], line["event"]) for line in lines(stream)] == [
        ("nats", "warning", "slow consumer"),
        ("nats", "warning", "in between"),
    ]
    assert lines(stream)[0]["node"] == "node-a"


def test_a_librarys_line_with_the_wrong_arguments_is_written_all_the_same() -> None:
    stream = io.StringIO()
    log.configure(stream=stream)
    record = logging.LogRecord("nats", logging.ERROR, __file__, 1, "lost %s of %s", (1,), None)

    # Not through logging itself: pytest's handler would fail on it.
    log._Bridge().emit(record)

    assert [line["event"] for line in lines(stream)] == ["lost %s of %s"]


def test_a_stream_that_is_gone_loses_lines_and_breaks_nothing() -> None:
    stream = io.StringIO()
    log.configure(stream=stream)
    stream.close()

    log.get_logger("x").info("nobody hears")


def test_a_flood_of_warnings_becomes_a_few_and_their_number() -> None:
    stream, now = io.StringIO(), [0.0]
    log.configure(stream=stream)
    limited = log.Limited(log.get_logger("agent"), per_minute=3, now=lambda: now[0])

    written = [limited.warning("bad frame", size=1) for _ in range(1_000)]
    now[0] = 60.0
    limited.warning("bad frame", size=2)
    limited.warning("another")

    assert sum(written) == 3
    assert [(line["event"], line.get("suppressed")) for line in lines(stream)] == [
        ("bad frame", None),
        ("bad frame", None),
        ("bad frame", None),
        ("bad frame", 997),
        ("another", None),
    ]


def test_lines_that_ask_for_nothing_are_held_back_as_warnings_are() -> None:
    stream = io.StringIO()
    log.configure(stream=stream)
    limited = log.Limited(log.get_logger("agent"), per_minute=2, now=lambda: 0.0)

    written = [limited.info("an instance leaves its group", why="full") for _ in range(10)]

    assert sum(written) == 2
    assert [(line["level"], line["why"]) for line in lines(stream)] == [("info", "full")] * 2


def test_ever_new_warnings_are_bounded_too() -> None:
    stream = io.StringIO()
    log.configure(stream=stream)
    limited = log.Limited(log.get_logger("agent"), per_minute=1, now=lambda: 0.0)

    for number in range(log.MAX_EVENTS + 500):
        limited.warning(f"event {number}")

    assert len(limited._windows) == log.MAX_EVENTS + 1
    assert len(lines(stream)) == log.MAX_EVENTS + 1
