import signal

import pytest

from bench.ending import exit_code_of
from liger.errors import ConfigError, UnavailableError


@pytest.fixture(autouse=True)
def signals_as_before():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (TimeoutError(), 1, "busy"),
        (UnavailableError("nobody there"), 1, "nobody there"),
        (ConfigError("wrong flag"), 2, "wrong flag"),
    ],
)
def test_what_ends_a_measurement_is_its_exit_code_and_one_line(error, code, word, capsys):
    def fail():
        raise error

    assert exit_code_of(fail) == code
    assert word in capsys.readouterr().err


def test_a_measurement_that_ends_well_is_a_success():
    assert exit_code_of(lambda: None) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_measurement_as_an_interrupt_does(number):
    left = []

    def measure():
        try:
            signal.raise_signal(number)
        finally:
            left.append(True)

    assert exit_code_of(measure) == 130
    assert left


def test_a_signal_ends_a_measurement_that_a_shell_began_in_the_background():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert exit_code_of(lambda: signal.raise_signal(signal.SIGTERM)) == 130
