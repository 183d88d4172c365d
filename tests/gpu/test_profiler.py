"""Profiles of ranks on devices, and the stopwatch that they are taken with."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from liger.domain import BatchKind, SegmentKind
from liger.profile import ProfileTable
from tests.gpu.models import wide_llama
from tests.support.rank_processes import running_processes
from tests.support.tiny_models import MakeModel
from worker.communicator.local import DoneExchange
from worker.timing.device import DeviceStopwatch

BODY = {SegmentKind.EMBED, SegmentKind.ATTENTION, SegmentKind.MLP, SegmentKind.HEAD}
MS_CYCLES = 2_000_000  # of a clock near 2 GHz


@pytest.fixture
def lane() -> Iterator[torch.cuda.Stream]:
    """Make a stream of its own the current one, as on a launching thread."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        yield stream
    torch.cuda.synchronize()


class LaneExchange(DoneExchange):
    """An exchange that keeps a stream of its own busy for so many cycles."""

    def __init__(self, cycles: int) -> None:
        super().__init__()
        self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            torch.cuda._sleep(cycles)
        self._event = torch.cuda.Event()
        self._event.record(self._stream)

    def wait(self) -> tuple[torch.Tensor, ...]:
        torch.cuda.current_stream().wait_event(self._event)
        return ()


def test_what_the_host_does_while_the_lane_is_held_is_not_timed(lane: torch.cuda.Stream) -> None:
    watch, numbers = DeviceStopwatch(), torch.zeros(8, device="cuda")
    numbers.add_(1)
    torch.cuda.synchronize()
    watch.hold(150_000_000)
    began = watch.mark()
    numbers.add_(1)
    time.sleep(0.03)  # a host that is slow to launch, not a wait for anything
    numbers.add_(1)
    ended = watch.mark()
    watch.settle()
    assert not watch.was_late
    assert 0 < watch.between_ns(began, ended) < 30_000_000
    assert watch.between_ns(ended, began) == 0


def test_a_lane_that_waited_for_the_host_is_noticed(lane: torch.cuda.Stream) -> None:
    watch = DeviceStopwatch()
    watch.hold(100_000)
    time.sleep(0.05)  # as above
    watch.mark()
    assert watch.settle() >= 50_000_000
    assert watch.was_late


@pytest.mark.parametrize(("compute_ms", "exchange_ms"), [(2, 20), (20, 2)])
def test_compute_and_exchanges_beside_it_end_each_when_they_do(
    lane: torch.cuda.Stream, compute_ms: int, exchange_ms: int
) -> None:
    watch = DeviceStopwatch()
    watch.hold(5_000_000)
    began = watch.mark()
    exchanges = [LaneExchange(exchange_ms * MS_CYCLES)]
    computed, exchanged = watch.beside(lambda: torch.cuda._sleep(compute_ms * MS_CYCLES), exchanges)
    watch.settle()
    order = watch.between_ns(began, computed) < watch.between_ns(began, exchanged)
    assert order is (compute_ms < exchange_ms)


def check_whole(table: ProfileTable, *, exchanges: bool) -> None:
    found = {kind: {each.segment for each in table.segments if each.batch is kind} for kind in BatchKind}
    assert found == {
        BatchKind.ENCODE: BODY,
        BatchKind.PREFILL: BODY | {SegmentKind.SAMPLE},
        BatchKind.DECODE: BODY | {SegmentKind.SAMPLE},
    }
    assert all(each.duration_ns > 0 for each in table.segments)
    exchanged = {each.segment for each in table.segments if each.batch is None}
    assert exchanged == ({SegmentKind.ALL_REDUCE, SegmentKind.GATHER} if exchanges else set())
    assert bool(table.contention) is exchanges
    assert all(1.0 <= each.compute_factor <= 4.0 for each in table.contention)


def settings(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {"dtype": "bfloat16", "profile_folder": tmp_path / "profiles", "profile_limit_s": 8.0, **more}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_rank_alone_measures_compute(tmp_path: Path, dtype: str) -> None:
    folder = wide_llama(tmp_path / "model")
    with running_processes(folder, tp_size=1, devices=["cuda"], **settings(tmp_path, dtype=dtype)) as group:
        (table,) = group.profile()
        check_whole(table, exchanges=False)
        assert group.profile() == [table], "what was measured is remembered"
    name = torch.cuda.get_device_properties(0).name
    assert name in table.key
    assert "SMs" in table.key


def test_two_ranks_agree_on_segments_exchanges_and_co_runs(tmp_path: Path) -> None:
    devices = [f"cuda:{rank % torch.cuda.device_count()}" for rank in range(2)]
    ranks = settings(tmp_path, communicator="copy-engine")
    with running_processes(wide_llama(tmp_path / "model"), tp_size=2, devices=devices, **ranks) as group:
        one, other = group.profile()
        assert one == other
        check_whole(one, exchanges=True)
        again, _ = group.profile(fresh=True)
        check_whole(again, exchanges=True)
        assert again.key == one.key


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL wants a GPU a rank")
def test_ranks_with_several_ways_to_exchange_compare_them(tmp_path: Path) -> None:
    ranks = settings(tmp_path, communicator="auto")
    with running_processes(wide_llama(tmp_path / "model"), tp_size=2, devices=["cuda:0", "cuda:1"], **ranks) as group:
        one, other = group.profile()
    assert one == other
    check_whole(one, exchanges=True)
    chosen = [(each.num_tokens, each.is_beside_compute) for each in one.exchange_choices if each.is_chosen]
    assert chosen
    assert len(set(chosen)) == len(chosen)
    assert {each.communicator for each in one.exchange_choices} == {"nccl", "copy-engine"}


def test_a_model_of_odd_sizes_is_measured(tiny_model: MakeModel, tmp_path: Path) -> None:
    folder, _ = tiny_model("bert-classifier")
    with running_processes(folder, tp_size=1, devices=["cuda"], **settings(tmp_path, dtype="float32")) as group:
        (table,) = group.profile()
    assert {each.segment for each in table.segments} == BODY
