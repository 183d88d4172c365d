from pathlib import Path

import pytest

from bench.link.settings import parse_orders
from bench.link.work import Load


def test_without_flags_everything_is_measured_at_leisure():
    orders = parse_orders([])
    assert orders.settings.rate == "500mbit"
    assert orders.settings.loads == (Load.DISCRIMINATIVE, Load.GENERATIVE)
    assert orders.settings.strategies == ("tensor", "pipeline", "interleaved")
    assert (orders.settings.layers, orders.settings.rounds, orders.json) == (4, 3, None)


def test_quick_means_less_of_everything_unless_said_otherwise():
    usual, quick = parse_orders([]).settings, parse_orders(["--quick", "--rounds", "2"]).settings
    assert quick.layers < usual.layers
    assert quick.seconds < usual.seconds
    assert quick.rounds == 2


def test_flags_are_taken():
    line = "--rate 1gbit --loads generative --strategies tensor,interleaved --seed 7 --json a.json --keep-logs"
    orders = parse_orders(line.split())
    assert (orders.settings.rate, orders.settings.seed, orders.keep_logs) == ("1gbit", 7, True)
    assert orders.settings.loads == (Load.GENERATIVE,)
    assert orders.settings.strategies == ("tensor", "interleaved")
    assert orders.json == Path("a.json")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("--ranks 1", "--ranks must be 2 to 16"),
        ("--hidden 100", "multiple of 64"),
        ("--rounds 0", "at least 1"),
        ("--seconds 0", "above 0"),
        ("--seconds nan", "above 0"),
        ("--layers 1", "a layer for each rank"),
        ("--max-batch-tokens 100", "at least 128"),
        ("--strategies interleaved", "must hold tensor"),
        ("--strategies tensor,turbo", "not turbo"),
        ("--loads ,", "discriminative, generative"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_its_reason(line, reason, capsys):
    with pytest.raises(SystemExit) as raised:
        parse_orders(line.split())
    assert raised.value.code == 2
    assert reason in capsys.readouterr().err
