"""Copy-engine exchanges whole, on threads as ranks over a libcuda that is made of plain memory."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from liger.errors import ConfigError, GroupFailedError
from tests.unit.worker.communicator.fake_cuda import FakeRuntime
from worker.communicator.copy_engine import opening
from worker.communicator.copy_engine.communicator import CopyEngineCommunicator
from worker.communicator.copy_engine.host_segments import map_together
from worker.communicator.copy_engine.layout import Layout
from worker.communicator.copy_engine.meeting import Meeting
from worker.communicator.copy_engine.opening import is_first_right, open_segments
from worker.communicator.copy_engine.protocol import Chunking
from worker.communicator.memory import ExchangeMemory
from worker.communicator.pieces import whole
from worker.rendezvous import RendezvousStore

HOST = "127.0.0.1"
HIDDEN = 8
MAX_TOKENS = 24
WAYS = pytest.mark.parametrize("is_staged", [False, True], ids=["peer", "host"])


@pytest.fixture
def store():
    store = RendezvousStore(HOST)
    yield store
    store.close()


class Group:
    """Ranks as threads; each is given its communicator and runtime."""

    def __init__(self, store, size, *, is_staged, monkeypatch=None):
        self.store, self.size, self.is_staged = store, size, is_staged

    def run(self, work):
        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(lambda rank: self._run(rank, work), range(self.size)))

    def _run(self, rank, work):
        runtime = FakeRuntime()
        runtime.library.cannot_map = self.is_staged and rank == 0  # one is enough
        meeting = meeting_of(self.store, rank, self.size)
        layout = Layout(world_size=self.size, num_slots=2, max_tokens=MAX_TOKENS, row_bytes=HIDDEN * 4, area_bytes=256)
        segments = open_segments(layout, meeting, runtime.driver, runtime)
        communicator = CopyEngineCommunicator(segments, runtime.driver, runtime, Chunking(min_bytes=64, most=3))
        try:
            return work(communicator, runtime)
        finally:
            communicator.close()
            runtime.library.close()


def meeting_of(store, rank, size):
    host, port = store.endpoint.rsplit(":", 1)
    client = torch.distributed.TCPStore(host, int(port), is_master=False, wait_for_workers=False)
    return Meeting(client, rank=rank, world_size=size)


def numbers(rank, number, rows, dtype):
    generator = torch.Generator().manual_seed(1000 * number + rank)
    return torch.randn(rows, HIDDEN, generator=generator).to(dtype)


def expected_addends(size, number, rows, dtype):
    addends = [numbers(rank, number, rows, dtype) for rank in range(size)]
    if size == 2:
        return addends
    total = addends[0].float()
    for addend in addends[1:]:
        total += addend.float()
    return [total.to(dtype)]


@WAYS
@pytest.mark.parametrize("size", [2, 3, 4])
def test_partial_sums_in_pieces_come_as_the_same_addends_on_all_ranks(store, size, is_staged):
    def work(communicator, _):
        assert communicator.is_staged == is_staged
        rng = random.Random(7)
        for number in range(24):
            slot, place = number // 2 % 2, number % 2
            dtype = rng.choice([torch.float32, torch.bfloat16])
            rows = rng.randint(1, MAX_TOKENS)
            partial = communicator.partial(slot, place, (rows, HIDDEN), dtype)
            partial.copy_(numbers(communicator.rank, number, rows, dtype))
            cut = rng.randint(0, rows)
            parts = [part for part in (partial[:cut], partial[cut:]) if len(part)]
            exchanges = [communicator.all_reduce(part) for part in parts]
            addends = whole([exchange.wait() for exchange in exchanges])
            wanted = expected_addends(size, number, rows, dtype)
            assert [one.tolist() for one in addends] == [one.tolist() for one in wanted]
        return True

    assert all(Group(store, size, is_staged=is_staged).run(work))


@WAYS
@pytest.mark.parametrize("size", [2, 3])
def test_parts_of_any_size_are_gathered_in_rank_order(store, size, is_staged):
    def work(communicator, _):
        for count in (1, 3, 32, 33, 200):  # areas hold 32
            part = torch.arange(count) * 10 + communicator.rank
            exchange = communicator.all_gather(part)
            assert exchange.ended_ns is None
            assert [one.tolist() for one in exchange.wait()] == [
                (torch.arange(count) * 10 + rank).tolist() for rank in range(size)
            ]
        return True

    assert all(Group(store, size, is_staged=is_staged).run(work))


@WAYS
@pytest.mark.parametrize("size", [2, 3])
def test_tensors_of_other_memory_are_reduced_too(store, size, is_staged):
    def work(communicator, _):
        partial = numbers(communicator.rank, 5, 100, torch.float32)
        addends = communicator.all_reduce(partial).wait()
        return [one.tolist() for one in addends]

    wanted = [one.tolist() for one in expected_addends(size, 5, 100, torch.float32)]
    assert Group(store, size, is_staged=is_staged).run(work) == [wanted] * size


@WAYS
def test_exchanges_of_slots_run_while_others_are_under_way(store, is_staged):
    def work(communicator, _):
        pending = []
        for number, (slot, place) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1), (0, 0), (1, 0)]):
            if len(pending) == 2:
                check(communicator, *pending.pop(0))
            partial = communicator.partial(slot, place, (9, HIDDEN), torch.float32)
            partial.copy_(numbers(communicator.rank, number, 9, torch.float32))
            pending.append((communicator.all_reduce(partial), number))
        for exchange, number in pending:
            check(communicator, exchange, number)
        return True

    def check(communicator, exchange, number):
        wanted = expected_addends(2, number, 9, torch.float32)
        assert [one.tolist() for one in exchange.wait()] == [one.tolist() for one in wanted]

    assert all(Group(store, 2, is_staged=is_staged).run(work))


@WAYS
def test_an_abort_ends_waits_for_a_rank_that_never_comes(store, is_staged):
    def work(communicator, runtime):
        if communicator.rank == 1:
            return "gone"
        for place in (0, 1, 0, 1):  # flags are awaited again and again
            communicator.all_reduce(communicator.partial(0, place, (20, HIDDEN), torch.float32))
        threading.Thread(target=communicator.abort).start()
        runtime.rest()
        with pytest.raises(GroupFailedError, match="epoch is over"):
            communicator.all_gather(torch.ones(1))
        return "ended"

    assert Group(store, 2, is_staged=is_staged).run(work) == ["ended", "gone"]


@WAYS
def test_closing_ends_what_still_waits_and_more_than_once_is_nothing(store, is_staged):
    def work(communicator, _):
        if communicator.rank == 0:
            exchange = communicator.all_reduce(communicator.partial(0, 0, (4, HIDDEN), torch.float32))
            communicator.close()
            communicator.close()
            with pytest.raises(GroupFailedError):
                exchange.wait()
        return True

    assert all(Group(store, 2, is_staged=is_staged).run(work))


@WAYS
def test_timed_exchanges_tell_when_they_ran(store, is_staged):
    def work(communicator, runtime):
        partial = communicator.partial(0, 0, (4, HIDDEN), torch.float32)
        assert communicator.all_reduce(partial).span is None
        communicator.timed = True
        spans = [communicator.all_reduce(communicator.partial(0, 1, (4, HIDDEN), torch.float32)).span]
        spans.append(communicator.all_gather(torch.ones(200)).span)
        runtime.rest()
        return all(began.at_ns <= ended.at_ns for began, ended in spans)

    assert all(Group(store, 2, is_staged=is_staged).run(work))


def small_layout(size):
    return Layout(world_size=size, num_slots=1, max_tokens=4, row_bytes=HIDDEN * 4)


def test_gpus_that_reach_their_own_memory_alone_keep_nothing_of_the_way_from_peer_to_peer(store):
    def run(rank):
        runtime = FakeRuntime()
        runtime.library.most_maps = 1
        segments = open_segments(small_layout(3), meeting_of(store, rank, 3), runtime.driver, runtime)
        left = runtime.library.held | runtime.library.mapped
        segments.close()
        runtime.library.close()
        return type(segments).__name__, left

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, range(3))) == [("HostSegments", set())] * 3


def test_a_rank_that_cannot_pin_shared_memory_is_told_of_on_all(store):
    def run(rank):
        runtime = FakeRuntime()
        runtime.library.cannot_map, runtime.library.cannot_pin = True, rank == 1
        with pytest.raises(GroupFailedError) as failure:
            open_segments(small_layout(2), meeting_of(store, rank, 2), runtime.driver, runtime)
        runtime.library.close()
        return str(failure.value)

    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(run, range(2)))
    assert "another rank could not pin" in told[0]
    assert "CUDA failed" in told[1]


def test_a_first_exchange_that_cannot_be_begun_fails_on_all_ranks_and_leaves_nothing(store, monkeypatch):
    def run(rank):
        runtime = runtimes[rank]
        runtime.library.cannot_wait = rank == 1
        host, port = store.endpoint.rsplit(":", 1)
        client = torch.distributed.TCPStore(host, int(port), is_master=False, wait_for_workers=False)
        with pytest.raises(GroupFailedError) as failure:
            opening.open_copy_engine(client, rank=rank, world_size=2, memory=memory, limit_s=0.3)
        left = runtime.library.mapped
        runtime.library.close()
        return str(failure.value), left

    memory = ExchangeMemory(num_slots=1, max_tokens=4, hidden_size=4, dtype=torch.float32, device=torch.device("cpu"))
    runtimes, here = [FakeRuntime(), FakeRuntime()], threading.local()
    monkeypatch.setattr(opening, "Runtime", lambda _: here.runtime)
    monkeypatch.setattr(opening, "Driver", lambda: here.runtime.driver)
    monkeypatch.setattr(runtimes[0], "is_at_rest", lambda: False)

    def run_as(rank):
        here.runtime = runtimes[rank]
        return run(rank)

    with ThreadPoolExecutor(2) as pool:
        (first, first_left), (second, second_left) = pool.map(run_as, range(2))
    assert "first exchange between GPUs failed" in first
    assert "CUDA failed" in second
    assert first_left == second_left == set()


@WAYS
def test_a_closed_communicator_keeps_no_memory_of_its_epoch(store, is_staged):
    def work(communicator, _):
        segments = communicator._segments
        communicator.all_gather(torch.ones(1))
        communicator.close()
        mapped = segments._file.closed if is_staged else not segments._segments
        return mapped, len(segments.partials), len(segments.inboxes)

    assert Group(store, 2, is_staged=is_staged).run(work) == [(True, 0, 0)] * 2


@WAYS
def test_a_lost_device_keeps_no_communicator_from_being_closed(store, is_staged, caplog):
    def work(communicator, runtime):
        def lost():
            raise RuntimeError("an illegal memory access")

        segments, runtime.rest = communicator._segments, lost
        communicator.close()
        return len(segments.inboxes), communicator._poisoner._thread.is_alive()

    assert Group(store, 2, is_staged=is_staged).run(work) == [(0, False)] * 2
    assert "did not come to rest" in caplog.text


def test_the_first_exchange_proves_the_way(store):
    def work(communicator, runtime):
        return is_first_right(communicator, runtime, 30.0)

    assert Group(store, 2, is_staged=True).run(work) == [True, True]


@pytest.mark.parametrize("is_staged", [True], ids=["host"])
def test_rows_that_are_too_wide_are_refused(store, is_staged):
    def work(communicator, _):
        with pytest.raises(ValueError, match="do not fit"):
            communicator.partial(0, 0, (1, HIDDEN + 1), torch.float32)
        return True

    assert all(Group(store, 2, is_staged=is_staged).run(work))


@pytest.mark.parametrize("size", [2, 3])
def test_inputs_longer_than_a_batch_are_exchanged_too(store, size):
    def work(communicator, runtime):
        partial = communicator.partial(0, 0, (MAX_TOKENS + 3, HIDDEN), torch.float32)
        partial.fill_(communicator.rank + 1.0)
        addends = communicator.all_reduce(partial).wait()
        runtime.rest()
        return sum(addend.double().sum().item() for addend in addends) / (MAX_TOKENS + 3) / HIDDEN

    assert Group(store, size, is_staged=True).run(work) == [sum(range(size + 1))] * size


def test_shared_memory_has_no_name_once_all_have_it(store, tmp_path):
    def run(rank):
        mapped = map_together(meeting_of(store, rank, 2), 8192, tmp_path)
        if rank == 0:
            mapped[5] = 9
        return mapped

    with ThreadPoolExecutor(2) as pool:
        maps = list(pool.map(run, range(2)))
    assert maps[1][5] == 9
    assert not list(tmp_path.iterdir())


def test_shared_memory_that_is_too_small_is_told_on_all_ranks(store, tmp_path):
    def run(rank):
        with pytest.raises((ConfigError, GroupFailedError)) as failure:
            map_together(meeting_of(store, rank, 2), 1 << 60, tmp_path)
        return failure.type

    with ThreadPoolExecutor(2) as pool:
        types = list(pool.map(run, range(2)))
    assert types[0] is ConfigError
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_none_of_ours_is_not_mapped(store, tmp_path):
    (tmp_path / "other").write_bytes(b"\0" * 8192)
    meeting_of(store, 0, 2)._store.set("name/0", str(tmp_path / "other"))
    meeting_of(store, 0, 2)._store.set("mapped/0", "well")
    with pytest.raises(ConfigError, match="none of ours"):
        map_together(meeting_of(store, 1, 2), 8192, tmp_path)
