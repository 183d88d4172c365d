from dataclasses import replace

import pytest

from controller.core.events import OutputMade
from liger.domain import FinishReason
from liger.errors import GroupFailedError
from liger.schedule import BatchOutcome
from tests.support.scheduling import Run, encode, report


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
