from io import StringIO

import pytest
from rich.console import Console

from bench.link.machine import Machine
from bench.prefix import Cache, Probe, Settings, main, show, summarise
from bench.words import all_words, draw_words

MACHINE = Machine(
    processor="P", cores=2, threads_per_rank=1, steal_percent=0, busy_percent=50, load_before=0.1, load_after=1.0
)


def probe(number, first_s, *, is_shared, prefill_s=0.0, cached=0, saved_s=0.0):
    return Probe(
        round=1,
        is_shared=is_shared,
        number=number,
        first_s=first_s,
        prefill_s=prefill_s,
        prompt_tokens=100,
        cached_tokens=cached,
        saved_s=saved_s,
    )


PROBES = [
    probe(0, 1.0, is_shared=False, prefill_s=0.9),
    probe(0, 1.1, is_shared=True, prefill_s=1.0),
    probe(1, 1.2, is_shared=False, prefill_s=1.1),
    probe(1, 0.2, is_shared=True, prefill_s=0.2, cached=80, saved_s=0.4),
    probe(2, 0.4, is_shared=True, prefill_s=0.2, cached=96, saved_s=0.4),
]


def test_the_first_chat_with_a_beginning_is_cold_and_the_others_are_warm():
    saving = summarise(PROBES)
    assert saving.cold_s == 1.1
    assert saving.other_s == pytest.approx(1.1)
    assert saving.warm_s == pytest.approx(0.3)
    assert saving.ratio == pytest.approx(0.3 / 1.1)
    assert saving.hit_rate == pytest.approx(0.88)


def test_the_saving_that_was_predicted_stands_beside_the_measured_one():
    saving = summarise(PROBES)
    assert saving.predicted_s == pytest.approx(0.4)
    assert saving.measured_s == pytest.approx(0.8)
    assert saving.predicted_over_measured == pytest.approx(0.5)


def test_a_cache_that_saves_nothing_has_no_ratio():
    slow = [probe(number, 1.0, is_shared=True, prefill_s=2.0) for number in range(2)]
    assert summarise([probe(0, 1.0, is_shared=False, prefill_s=1.0), *slow]).predicted_over_measured is None


def test_the_table_shows_cold_warm_and_saving():
    out = StringIO()
    settings = Settings(model="m", prompt_tokens=90, requests=3, rounds=1, seed=0)
    cache = Cache(query_tokens=1500, hit_tokens=176, num_cached_blocks=3)
    show(Console(file=out, width=200), settings, summarise(PROBES), cache, MACHINE)
    text = out.getvalue()
    assert "predicted 400.0 ms, measured 800.0 ms, ratio 0.50" in text
    assert "176 of 1,500" in text
    assert "0.27" in text


def test_words_are_drawn_again_by_the_same_seed():
    assert draw_words(50, "a") == draw_words(50, "a") != draw_words(50, "b")
    assert set(draw_words(200, "a").split()) <= set(all_words().split())
    assert len(draw_words(50, "a").split()) == 50


@pytest.mark.parametrize("flags", [["--requests", "1"], ["--prompt-tokens", "0"], ["--rounds", "0"]])
def test_settings_that_cannot_be_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as caught:
        main(flags)
    assert caught.value.code == 2
    assert "error" in capsys.readouterr().err
