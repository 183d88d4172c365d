from dataclasses import replace

import pytest

from controller.core.events import OutputMade, StepMade, TokensMade
from liger.domain import FinishReason
from liger.errors import GroupFailedError
from liger.schedule import BatchOutcome
from tests.support.scheduling import Run, encode, expected_output, generate, report


def test_a_request_that_takes_the_id_of_a_cancelled_one_gets_its_own_outputs():
    run = Run()
    run.scheduler.submit(encode("a", [1, 2], [3]), 0)
    run.publish()
    run.scheduler.cancel("a", None, FinishReason.CANCELLED, 0)
    run.scheduler.submit(encode("a", [7]), 0)
    run.finish()
    outputs = [(event.item, event.result.values) for event in run.events if isinstance(event, OutputMade)]
    assert outputs == [(0, (7.0,))]


def test_results_of_batches_that_a_window_does_not_have_are_refused():
    run = Run()
    run.scheduler.submit(encode("a", [1, 2]), 0)
    run.publish()
    outcome = run.outcomes.popleft()
    foreign = replace(outcome, batches=(*outcome.batches, BatchOutcome(batch_id=99)))
    with pytest.raises(GroupFailedError, match="batches that it has not"):
        run.scheduler.commit(report(foreign), 0)


def test_samples_that_go_on_are_told_of_in_columns_of_each_conversation():
    """A sample's first and last tokens, and those of whom no stream is known, are told of alone."""
    run = Run()
    requests = {"a": (1, 40), "b": (2, 7), "c": (1, 2**63), "none": (1, None)}
    for name, (conversation, first_stream) in requests.items():
        work = generate(name, (len(name), 5), max_tokens=4, conversation=conversation, first_stream=first_stream)
        run.scheduler.submit(work, 0)
    run.finish()
    steps = [event for event in run.events if isinstance(event, StepMade)]
    assert {stream.number for step in steps for stream in step.streams} == {40, 7, 2**63}
    assert all(len({stream.conversation for stream in step.streams}) == 1 for step in steps)
    assert {len(step.streams) for step in steps if step.streams[0].conversation == 1} == {2}
    alone = [(event.request_id, event.offset) for event in run.events if isinstance(event, TokensMade)]
    assert {offset for name, offset in alone if name != "none"} == {0, 3}
    assert [offset for name, offset in alone if name == "none"] == [0, 1, 2, 3]
    for name in requests:
        assert run.tokens(name) == expected_output((len(name), 5), 4)


def test_the_samples_of_a_request_have_streams_that_follow_one_another():
    run = Run()
    run.scheduler.submit(generate("a", max_tokens=3, n=3, first_stream=100), 0)
    run.finish()
    streams = {stream for event in run.events if isinstance(event, StepMade) for stream in event.streams}
    assert {stream.sample: stream.number for stream in streams} == {0: 100, 1: 101, 2: 102}
