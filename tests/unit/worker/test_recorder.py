from liger.domain import BatchKind, Lane
from liger.schedule import Step, StepSpan
from tests.support.forwards import pattern_of, window_of
from worker.recorder import HostRecorder

COMPUTE = [Step(operand=operand, segment=0, lane=Lane.COMPUTE) for operand in range(2)]
PATTERN = pattern_of(COMPUTE, BatchKind.DECODE, BatchKind.DECODE)


class Clock:
    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


class Exchange:
    def __init__(self, ended_ns=None):
        self.ended_ns = ended_ns

    def wait(self):
        return ()


def recording(number=1, *, timed=True, recorder=None, clock=None):
    clock = clock or Clock()
    recorder = recorder or HostRecorder(clock)
    recorder.begin(window_of(PATTERN, number, (1, 2), timed=timed))
    return recorder, clock


def compute(recorder, clock, place, *, began, ended, waited=0):
    """Let a step compute, after a wait."""
    clock.now_ns = began - waited
    recorder.begin_step()
    recorder.begin_wait()
    clock.now_ns = began
    recorder.end_wait()
    clock.now_ns = ended
    recorder.end_step(place, COMPUTE[place], None)


def exchange(recorder, clock, place, began, under_way):
    clock.now_ns = began
    recorder.begin_step()
    recorder.end_step(place, COMPUTE[0], under_way)


def test_compute_and_waits_are_told_by_batch():
    recorder, clock = recording()
    compute(recorder, clock, 0, began=10, ended=30)
    compute(recorder, clock, 1, began=40, ended=70, waited=5)
    clock.now_ns = 80
    timings = recorder.end(2)()
    assert (timings.started_ns, timings.ended_ns) == (0, 80)
    assert (timings.compute_ns, timings.batch_compute_ns) == (50, (20, 30))
    assert (timings.exposed_ns, timings.batch_exposed_ns) == (5, (0, 5))
    assert timings.spans == (StepSpan(1, 0, 10, 30), StepSpan(1, 1, 40, 70))


def test_an_exchange_begins_when_those_before_it_have_ended():
    recorder, clock = recording()
    exchange(recorder, clock, 0, 10, Exchange(50))
    exchange(recorder, clock, 1, 20, Exchange(60))
    exchange(recorder, clock, 2, 90, Exchange(95))
    timings = recorder.end(2)()
    assert timings.spans == (StepSpan(1, 0, 10, 50), StepSpan(1, 1, 50, 60), StepSpan(1, 2, 90, 95))
    assert timings.communication_ns == 40 + 10 + 5


def test_an_exchange_that_a_later_one_overtook_counts_no_time_twice():
    recorder, clock = recording()
    exchange(recorder, clock, 0, 10, Exchange(60))
    exchange(recorder, clock, 1, 20, Exchange(50))
    timings = recorder.end(2)()
    assert timings.communication_ns == 50
    assert all(span.begin_ns <= span.end_ns for span in timings.spans)


def test_an_exchange_under_way_is_told_with_the_window_in_which_it_ends():
    recorder, clock = recording()
    late = Exchange()
    exchange(recorder, clock, 4, 10, late)
    first = recorder.end(2)()
    recording(2, timed=False, recorder=recorder, clock=clock)
    second = recorder.end(2)()
    late.ended_ns = 70
    recording(3, timed=False, recorder=recorder, clock=clock)
    third = recorder.end(2)()
    assert [one.communication_ns for one in (first, second, third)] == [0, 0, 60]
    assert [one.spans for one in (first, second, third)] == [(), (), (StepSpan(1, 4, 10, 70),)]


def test_an_exchange_with_nothing_to_do_takes_no_time():
    recorder, clock = recording()
    exchange(recorder, clock, 0, 10, Exchange(0))
    timings = recorder.end(2)()
    assert timings.communication_ns == 0
    assert timings.spans == (StepSpan(1, 0, 10, 10),)


def test_a_window_that_is_not_timed_leaves_no_spans_for_later_ones():
    recorder, clock = recording(timed=False)
    exchange(recorder, clock, 0, 10, late := Exchange())
    compute(recorder, clock, 1, began=10, ended=15)
    assert recorder.end(2)().spans == ()
    late.ended_ns = 20
    recording(2, recorder=recorder, clock=clock)
    assert recorder.end(2)().spans == ()


def test_waits_for_results_are_their_batch_s():
    recorder, clock = recording()
    recorder.begin_step()
    recorder.begin_wait()
    clock.now_ns = 7
    recorder.end_wait()
    recorder.end_batch(1)
    assert recorder.end(2)().batch_exposed_ns == (0, 7)
