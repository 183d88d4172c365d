"""One sample: what came is given once, joined while nobody takes it, and ended in the right words."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sample import Likelihoods, Sample, StopTokens
from gateway.stop import StopScanner, StopStrings
from gateway.work import SampleTokens
from liger.client.results import Delta, Finished
from liger.domain import FinishReason
from liger.errors import LigerError
from liger.schedule import Logprob

LETTERS = "abcdef"
END = 9


class Letters:
    """Says a letter for each token; the last of three is held back until the next."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, token_ids: list[int]) -> str:
        text = self._held + "".join(LETTERS[token] for token in token_ids)
        self._held = text[-1:] if len(text) % 3 == 0 else ""
        return text.removesuffix(self._held) if self._held else text

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held


def sample(*stops: str, min_tokens: int = 0, grammar: bool = False, shown: bool = True, rank: bool = False) -> Sample:
    return Sample(
        0,
        detokenizer=Letters(),
        scanner=StopScanner(StopStrings(stops), include_stop=False),
        stop_tokens=StopTokens(
            silent_ids=frozenset({END}),
            grammar_ids=frozenset({END} if grammar else ()),
            spellings={END: "</s>", 0: "a"},
        ),
        min_tokens=min_tokens,
        likelihoods=Likelihoods(are_shown=shown, rank=rank),
    )


def tokens(*ids: int, offset: int = 0, reason: FinishReason | None = None) -> SampleTokens:
    logprobs = tuple(Logprob(token_id=token, logprob=-1.0) for token in ids)
    return SampleTokens(sample=0, offset=offset, token_ids=ids, logprobs=logprobs, finish_reason=reason)


def test_what_nobody_took_is_one_delta() -> None:
    made = sample()
    for offset in range(5):
        assert made.take(tokens(offset, offset=offset)) is False
    [delta] = made.events()
    assert isinstance(delta, Delta)
    assert (delta.text, delta.token_ids, len(delta.logprobs)) == ("abcde", (0, 1, 2, 3, 4), 5)
    assert made.events() == []


def test_held_text_comes_with_the_end() -> None:
    made = sample("fff")
    made.take(tokens(5, 5, reason=FinishReason.LENGTH))
    delta, finished = made.events()
    assert isinstance(delta, Delta)
    assert delta.text == "ff"
    assert finished == Finished(index=0, reason=FinishReason.LENGTH, stop="", num_tokens=2)


def test_an_end_token_has_no_text_and_is_named() -> None:
    made = sample()
    made.take(tokens(1, END, reason=FinishReason.STOP))
    delta, finished = made.events()
    assert isinstance(delta, Delta)
    assert (delta.text, delta.token_ids) == ("b", (1, END))
    assert finished == Finished(index=0, reason=FinishReason.STOP, stop="</s>", num_tokens=2)


def test_an_end_told_after_its_token_is_named_too() -> None:
    made = sample()
    made.take(tokens(0))
    made.events()
    made.take(tokens(offset=1, reason=FinishReason.STOP))
    assert made.events() == [Finished(index=0, reason=FinishReason.STOP, stop="a", num_tokens=1)]


def test_nothing_is_taken_after_a_stop_string() -> None:
    made = sample("bc")
    assert made.take(tokens(0, 1, 2, 3)) is True
    assert made.take(tokens(4, offset=4)) is False
    delta, finished = made.events()
    assert isinstance(delta, Delta)
    assert (delta.text, delta.token_ids) == ("a", (0, 1, 2))
    assert finished == Finished(index=0, reason=FinishReason.STOP, stop="bc", num_tokens=3)


def test_a_stop_string_within_the_last_tokens_needs_no_cancel() -> None:
    made = sample("b")
    assert made.take(tokens(0, 1, 2, reason=FinishReason.LENGTH)) is False
    assert made.events()[-1] == Finished(index=0, reason=FinishReason.STOP, stop="b", num_tokens=2)


def test_a_stop_string_completed_by_held_text_counts() -> None:
    made = sample("c")
    assert made.take(tokens(0, 1, 2, reason=FinishReason.LENGTH)) is False
    delta, finished = made.events()
    assert isinstance(delta, Delta)
    assert delta.text == "ab"
    assert finished == Finished(index=0, reason=FinishReason.STOP, stop="c", num_tokens=3)


def test_a_stop_string_before_min_tokens_does_not_count() -> None:
    made = sample("a", min_tokens=3)
    made.take(tokens(0, 0, 1, 0, reason=FinishReason.LENGTH))
    delta, finished = made.events()
    assert isinstance(delta, Delta)
    assert delta.text == "aab"
    assert finished == Finished(index=0, reason=FinishReason.STOP, stop="a", num_tokens=4)


@pytest.mark.parametrize("told", [FinishReason.STOP, FinishReason.GRAMMAR])
def test_an_end_token_after_a_grammar_says_that_it_is_complete(told: FinishReason) -> None:
    made = sample(grammar=True)
    made.take(tokens(1, END, reason=told))
    assert made.events()[-1] == Finished(index=0, reason=FinishReason.GRAMMAR, stop="</s>", num_tokens=2)


@pytest.mark.parametrize(
    ("ids", "told", "reason"),
    [
        ((1, 0), FinishReason.STOP, FinishReason.STOP),  # a client's stop token
        ((1, 2), FinishReason.STOP, FinishReason.STOP),  # a stop string
        ((1, 3), FinishReason.LENGTH, FinishReason.LENGTH),
    ],
)
def test_other_ends_of_a_grammars_output_keep_their_reason(
    ids: tuple[int, ...], told: FinishReason, reason: FinishReason
) -> None:
    made = sample("bc", grammar=True)
    made.take(tokens(*ids, reason=told))
    finished = made.events()[-1]
    assert isinstance(finished, Finished)
    assert finished.reason is reason


def test_a_ranked_sample_sums_the_likelihoods_of_its_tokens_and_hides_them() -> None:
    made = sample("bc", shown=False, rank=True)
    made.take(tokens(0, 1, 2, 3))
    delta, finished = made.events()
    assert isinstance(delta, Delta)
    assert delta.logprobs == ()
    assert finished == Finished(index=0, reason=FinishReason.STOP, stop="bc", num_tokens=3, logprob=-3.0)
    assert made.mean_logprob == -1.0


def test_a_sample_without_tokens_is_the_least_likely() -> None:
    assert sample(rank=True).mean_logprob == -math.inf


@pytest.mark.parametrize(("shown", "rank"), [(True, False), (False, True)])
def test_tokens_without_their_likelihoods_are_refused(shown: bool, rank: bool) -> None:
    made = sample(shown=shown, rank=rank)
    with pytest.raises(LigerError, match="without their likelihoods"):
        made.take(SampleTokens(sample=0, offset=0, token_ids=(1, 2), logprobs=(Logprob(token_id=1, logprob=-1.0),)))


@given(
    ids=st.lists(st.integers(0, 5), max_size=30),
    overlaps=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=20),
    takes=st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_replayed_tokens_are_given_once_in_order(
    ids: list[int], overlaps: list[tuple[int, int]], takes: list[bool]
) -> None:
    made = sample()
    given_out: list[int] = []
    for (start, end), take in zip(overlaps, takes, strict=False):
        first = min(start, made.num_tokens)
        made.take(tokens(*ids[first:end], offset=first))
        if take:
            given_out += [token for delta in made.events() if isinstance(delta, Delta) for token in delta.token_ids]
    made.take(tokens(*ids, reason=FinishReason.LENGTH))
    events = made.events()
    deltas = [event for event in events if isinstance(event, Delta)]
    assert [*given_out, *(token for delta in deltas for token in delta.token_ids)] == ids
    assert events[-1] == Finished(index=0, reason=FinishReason.LENGTH, stop="", num_tokens=len(ids))
