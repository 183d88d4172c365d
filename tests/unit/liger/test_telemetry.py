import json
import logging
import sys

import pytest

from liger.telemetry import JsonFormatter, PlainFormatter, configure_logging


@pytest.fixture
def record() -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "a.b", "levelname": "INFO", "msg": "served %s", "args": ("it",), "created": 0.25, "msecs": 250.0}
    )
    made.request_id = "r1"
    return made


def test_json_lines_hold_message_time_and_extras(record):
    line = json.loads(JsonFormatter("gateway").format(record))

    assert line == {
        "time": "1970-01-01T00:00:00.250Z", "level": "INFO", "service": "gateway", "logger": "a.b",
        "message": "served it", "request_id": "r1",
    }  # fmt: skip


def test_plain_lines_end_with_extras(record):
    assert PlainFormatter("gateway").format(record).endswith(".250 INFO gateway served it request_id=r1")


@pytest.mark.parametrize("formatter", [JsonFormatter, PlainFormatter])
def test_an_exception_is_told_with_its_trace(record, formatter):
    try:
        raise RuntimeError("out of luck")
    except RuntimeError:
        record.exc_info = sys.exc_info()

    line = formatter("gateway").format(record)

    assert "out of luck" in line
    assert "Traceback" in line


def test_what_json_does_not_know_is_told_as_text(record):
    record.place = object
    assert json.loads(JsonFormatter("gateway").format(record))["place"] == "<class 'object'>"


def test_logs_go_to_standard_error_from_the_level_on(capsys):
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        configure_logging("gateway", level="WARNING", json_lines=True)
        logging.getLogger("a").info("not said")
        logging.getLogger("a").warning("said", extra={"epoch": 3})
    finally:
        root.handlers[:] = before
        root.setLevel(level)

    said = capsys.readouterr()
    assert said.out == ""
    assert [json.loads(line)["epoch"] for line in said.err.splitlines()] == [3]
