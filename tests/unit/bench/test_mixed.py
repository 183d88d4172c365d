import itertools
import json
import math
from io import StringIO

import pytest
from rich.console import Console

from bench.link.figures import Answer
from bench.link.machine import Machine
from bench.mixed.figures import (
    EmbedFigures,
    Phase,
    PhaseRun,
    RankFigures,
    arriving_figures,
    compute_shares,
    p90_against_alone,
    stream_figures,
)
from bench.mixed.made_smollm2 import NAME, shapes
from bench.mixed.phases import num_steps, order_of
from bench.mixed.report import describe_run, show, to_json
from bench.mixed.settings import parse_orders
from bench.mixed.streams import Arrival
from bench.mixed.work import embeddings, generations, until
from liger.domain import BatchKind, Lane, SegmentKind, Task
from liger.spans import LaneSpan
from liger.views import TaskShare, WindowMix

MACHINE = Machine(
    processor="P", cores=2, threads_per_rank=1, steal_percent=0, busy_percent=50, load_before=0.1, load_after=1.0
)


def arrival(at_s, waited_s, num_tokens=1, *, is_first=False):
    return Arrival(at_s=at_s, waited_s=waited_s, num_tokens=num_tokens, is_first=is_first)


def answer(scheduled_s, ended_s, num_tokens=10, error=""):
    return Answer(scheduled_s=scheduled_s, ended_s=ended_s, num_tokens=num_tokens, error=error)


def run_of(phase, number, p90_s):
    arrivals = [arrival(1.0, p90_s)] * 4
    embeddings_beside = None
    if phase is not Phase.STREAMS:
        embeddings_beside = arriving_figures([answer(1.0, 1.5)], 0.0, 2.0)
    ranks = RankFigures(
        compute_shares={"decode": 0.5},
        hidden_share=None,
        mixes=(WindowMix(batches=(BatchKind.DECODE,), share=1.0),),
        task_shares=(TaskShare(task=Task.GENERATE, weight=4.0, share=0.8),),
    )
    figures = stream_figures(arrivals, 0.0, 2.0)
    return PhaseRun(phase=phase, round=number, streams=figures, embeddings=embeddings_beside, ranks=ranks)


def span(rank, lane, kind, begin_ns, end_ns):
    return LaneSpan(
        rank=rank,
        lane=lane,
        batch_id=1,
        batch=kind,
        num_tokens=1,
        segment=SegmentKind.MLP,
        layer=0,
        window=1,
        begin_ns=begin_ns,
        end_ns=end_ns,
    )


def test_only_tokens_in_the_counted_time_count():
    figures = stream_figures([arrival(0.5, 9.0), arrival(1.0, 0.1), arrival(2.9, 0.3), arrival(3.0, 9.0)], 1.0, 3.0)
    assert figures.num_tokens == 2
    assert figures.tokens_per_s == 1.0
    assert figures.p50_s == pytest.approx(0.2)


def test_tokens_that_come_together_came_after_no_time():
    figures = stream_figures([arrival(0.1, 0.4), arrival(0.2, 0.6, num_tokens=3)], 0.0, 1.0)
    assert figures.num_tokens == 4
    assert figures.together == 0.5
    assert figures.mean_s == pytest.approx(0.25)
    assert figures.p50_s == pytest.approx(0.2)


def test_the_first_token_of_a_stream_is_not_between_tokens():
    figures = stream_figures([arrival(0.1, 5.0, is_first=True), arrival(0.2, 0.1)], 0.0, 1.0)
    assert figures.p99_s == pytest.approx(0.1)
    assert figures.first_s == 5.0


def test_embeddings_count_by_when_they_were_to_be_sent_and_by_when_they_were_answered():
    answers = [answer(0.5, 1.5), answer(1.2, 1.4), answer(1.9, 9.0), answer(1.5, 1.6, error="full")]
    figures = arriving_figures(answers, 1.0, 2.0)
    assert figures.offered_per_s == 3.0
    assert figures.calls_per_s == 2.0
    assert figures.tokens_per_s == 20.0
    assert figures.p50_s == pytest.approx((0.2 + 7.1) / 2)
    assert (figures.num_failed, figures.error) == (1, "full")


def test_compute_shares_are_of_all_ranks_time_and_leave_exchanges_out():
    spans = [
        span(0, Lane.COMPUTE, BatchKind.DECODE, 0, 30),
        span(0, Lane.COMMUNICATION, BatchKind.DECODE, 30, 100),
        span(1, Lane.COMPUTE, BatchKind.ENCODE, 0, 50),
        span(1, Lane.COMMUNICATION, BatchKind.ENCODE, 50, 100),
    ]
    assert compute_shares(spans) == {"encode": 0.25, "decode": 0.15}
    assert compute_shares([]) == {}


def test_rounds_are_compared_with_streams_alone_in_the_same_round():
    runs = [run_of(Phase.STREAMS, 1, 0.1), run_of(Phase.WEIGHTED, 1, 0.2)]
    runs += [run_of(Phase.STREAMS, 2, 0.4), run_of(Phase.WEIGHTED, 2, 0.4)]
    assert p90_against_alone(runs, Phase.WEIGHTED) == pytest.approx(1.5)
    assert p90_against_alone(runs, Phase.UNWEIGHTED) is None


def test_saturation_comes_before_what_needs_its_rate_and_the_compared_phases_take_turns():
    first, second = order_of(1), order_of(2)
    assert first.index(Phase.SATURATION) < min(first.index(Phase.UNWEIGHTED), first.index(Phase.WEIGHTED))
    assert Phase.SATURATION not in second
    assert first.index(Phase.UNWEIGHTED) < first.index(Phase.WEIGHTED)
    assert second.index(Phase.UNWEIGHTED) > second.index(Phase.WEIGHTED)
    assert num_steps(parse_orders(["--rounds", "2"]).settings) == 4 + 4 + 3


@pytest.mark.parametrize("draw", [generations, embeddings])
def test_the_same_seed_draws_the_same_calls(draw):
    def some(seed):
        return list(itertools.islice(draw(range(1000), seed), 20))

    assert some("1") == some("1")
    assert some("1") != some("2")
    assert all(16 <= len(call.token_ids) <= 64 for call in some("1"))
    assert all((call.num_new_tokens > 0) == (draw is generations) for call in some("1"))


def test_calls_end_with_the_time():
    clock = itertools.count()
    assert len(list(until(embeddings([1], ""), 5, lambda: next(clock)))) == 5


@pytest.mark.parametrize(("p90_s", "word"), [(0.15, "met"), (0.16, "missed")])
def test_the_tables_show_both_classes_and_whether_the_goal_is_met(p90_s, word):
    settings = parse_orders(["--rounds", "1"]).settings
    saturated = EmbedFigures(
        offered_per_s=None, calls_per_s=42.0, tokens_per_s=420.0, p50_s=1.0, p90_s=2.0, num_failed=0, error=""
    )
    runs = [
        run_of(Phase.STREAMS, 1, 0.1),
        PhaseRun(phase=Phase.SATURATION, round=1, streams=None, embeddings=saturated, ranks=None),
        run_of(Phase.UNWEIGHTED, 1, 0.3),
        run_of(Phase.WEIGHTED, 1, p90_s),
    ]
    out = StringIO()
    show(Console(file=out, width=200), settings, MACHINE, runs)
    text = out.getvalue()
    assert f"({word})" in text
    assert "42.0" in text
    assert "3.00" in text  # without weights, against streams alone
    assert "decode 100%" in text
    summary = json.loads(to_json(settings, MACHINE, runs))["summary"]
    assert summary["p90_vs_streams_alone"][Phase.UNWEIGHTED] == pytest.approx(3.0)
    assert "42.0 embeddings/s" in describe_run(runs[1])


def test_what_is_not_known_is_null_in_json():
    nothing = PhaseRun(
        phase=Phase.STREAMS, round=1, streams=stream_figures([], 0.0, 1.0), embeddings=None, ranks=None
    )  # fmt: skip
    table = json.loads(to_json(parse_orders([]).settings, MACHINE, [nothing]))
    assert table["runs"][0]["streams"]["p90_s"] is None


@pytest.mark.parametrize(
    "flags",
    [["--streams", "0"], ["--seconds", "nan"], ["--rounds", "0"], ["--share", "0"], ["--outstanding", "9999"]],
)
def test_settings_that_cannot_be_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_orders(flags)
    assert caught.value.code == 2
    assert "error" in capsys.readouterr().err


def test_the_made_model_has_as_many_weights_as_the_real_one():
    assert sum(math.prod(shape) for shape in shapes().values()) == 134_515_008


def test_the_made_model_and_threads_of_ranks_can_be_asked_for():
    settings = parse_orders(["--model", NAME, "--threads", "4"]).settings
    assert (settings.model, settings.threads) == ("made-smollm2", 4)
