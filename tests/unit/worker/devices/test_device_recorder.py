"""How a GPU's recorder shares a window's time out, by events of a made clock."""

from types import SimpleNamespace

import pytest
import torch

import worker.devices.recorder
from liger.domain import BatchKind, Lane
from liger.schedule import Step, WindowTimings
from tests.support.forwards import pattern_of, window_of
from worker.communicator.local import DoneExchange
from worker.devices.recorder import DeviceRecorder

STEPS = [
    Step(operand=0, segment=0, lane=Lane.COMPUTE),
    Step(operand=1, segment=0, lane=Lane.COMPUTE),
    Step(operand=1, segment=1, lane=Lane.COMMUNICATION),
]
PATTERN = pattern_of(STEPS, BatchKind.DECODE, BatchKind.DECODE)


class Lanes:
    """Events that a lane passes as soon as they are recorded, at a time that the test sets, in milliseconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ms = 0.0
        self.is_capturing = False
        monkeypatch.setattr(worker.devices.recorder, "_recorded", self.event)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.is_capturing)

    def event(self) -> SimpleNamespace:
        at_ms = self.now_ms
        return SimpleNamespace(at=at_ms, elapsed_time=lambda other: other.at - at_ms, synchronize=lambda: None)


def recorded(recorder: DeviceRecorder, lanes: Lanes, exchange: object, *, num_steps: int = 3) -> WindowTimings:
    """Record a window of 1 ms of batch 0, 3 ms of batch 1 and an exchange."""
    recorder.begin(window_of(PATTERN, 1, (1, 2), timed=True))
    for place, lasts_ms in ((0, 1.0), (1, 3.0)):
        recorder.begin_step()
        lanes.now_ms += lasts_ms
        recorder.end_step(place, STEPS[place], None)
    recorder.begin_step()
    recorder.end_step(2, STEPS[2], exchange)
    return recorder.end(num_steps)()


def test_exchanges_of_nothing_do_not_keep_shares_from_being_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = Lanes(monkeypatch)
    timings = recorded(DeviceRecorder(lambda: 0), lanes, DoneExchange())
    assert timings.batch_compute_ns == pytest.approx((1_000_000, 3_000_000), abs=2)
    assert timings.communication_ns == 0


def test_an_exchange_with_a_span_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = Lanes(monkeypatch)
    span = SimpleNamespace(at=1.0, synchronize=lambda: None), SimpleNamespace(at=3.0, synchronize=lambda: None)
    timings = recorded(DeviceRecorder(lambda: 0), lanes, SimpleNamespace(span=span))
    assert timings.communication_ns == pytest.approx(2_000_000, abs=2)


def test_shares_are_not_taken_from_windows_of_which_a_part_was_in_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = Lanes(monkeypatch)
    timings = recorded(DeviceRecorder(lambda: 0), lanes, DoneExchange(), num_steps=9)
    assert timings.batch_compute_ns == pytest.approx((2_000_000, 2_000_000), abs=2)


def test_steps_are_wanted_until_seen_once_whenever_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes, recorder = Lanes(monkeypatch), DeviceRecorder(lambda: 0)
    wanted = []
    monkeypatch.setattr(recorder, "_read", lambda _: None)  # by a thread that is far behind
    for num_steps in (9, 3, 3):
        recorded(recorder, lanes, DoneExchange(), num_steps=num_steps)
        recorder.begin(window_of(PATTERN, 1, (1, 2), timed=True))
        wanted.append(recorder.wants_steps())
    assert wanted == [True, False, False]
