"""What surrounds NCCL, with Gloo in its place."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from liger.errors import GroupFailedError
from worker.communicator import nccl
from worker.communicator.links import PairLinks
from worker.communicator.memory import ExchangeMemory
from worker.communicator.nccl import NcclCommunicator
from worker.rendezvous import RendezvousStore

MEMORY = ExchangeMemory(num_slots=1, max_tokens=4, hidden_size=2, dtype=torch.float32, device=torch.device("cpu"))


class GlooForNccl(dist.ProcessGroupGloo):
    """Takes NCCL's arguments."""

    @staticmethod
    def Options(*, is_high_priority_stream):  # noqa: N802
        assert is_high_priority_stream
        options = dist.ProcessGroupGloo._Options()
        options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        return options


class FakeStream:
    """Keeps the order of what it is told."""

    def __init__(self, *_, **__):
        self.told = []

    def wait_stream(self, _):
        self.told.append("wait")


class FakeEvent:
    def __init__(self, *, enable_timing):
        assert enable_timing

    def record(self, stream):
        stream.told.append(self)


@pytest.fixture
def connect(monkeypatch):
    """Connects two ranks and returns what is asked of each."""
    fake = SimpleNamespace(
        Stream=FakeStream,
        Event=FakeEvent,
        set_device=lambda _: None,
        is_current_stream_capturing=lambda: False,
        current_stream=lambda: None,
        stream=lambda _: contextlib.nullcontext(),
    )
    monkeypatch.setattr(nccl, "_CUDA", fake)
    monkeypatch.setattr(
        nccl, "_DIST", SimpleNamespace(ProcessGroupNCCL=GlooForNccl, BroadcastOptions=dist.BroadcastOptions)
    )
    monkeypatch.setattr(nccl, "_ENVIRONMENT", {})
    store = RendezvousStore("127.0.0.1")
    host, port = store.endpoint.rsplit(":", 1)

    def run(work):
        def rank_work(rank):
            client = dist.TCPStore(
                host, int(port), is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30)
            )
            communicator = NcclCommunicator(client, rank=rank, world_size=2, memory=MEMORY, limit_s=30.0)
            try:
                return work(communicator)
            finally:
                communicator.close()

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(rank_work, range(2)))

    yield run
    store.close()


def test_partial_sums_lie_in_fixed_memory_and_are_summed_in_place(connect):
    def work(communicator):
        partial = communicator.partial(0, 1, (3, 2), torch.float32)
        partial.fill_(communicator.rank + 1)
        exchanges = [communicator.all_reduce(rows) for rows in (partial[:1], partial[1:])]
        totals = [exchange.wait() for exchange in exchanges]
        assert all(len(total) == 1 for total in totals)
        assert communicator.partial(0, 1, (3, 2), torch.float32).data_ptr() == partial.data_ptr()
        gathered = communicator.all_gather(torch.tensor([communicator.rank])).wait()
        return partial.tolist(), [one.tolist() for one in gathered], exchanges[0].ended_ns, exchanges[0].span

    assert connect(work) == [([[3.0] * 2] * 3, [[0], [1]], None, None)] * 2


def test_what_rank_0_of_a_pair_sends_the_other_receives(connect):
    def work(communicator):
        links = PairLinks({1: communicator}, {0: communicator})
        tensor = torch.full((2,), communicator.rank)
        exchange = links.send(tensor, 1) if communicator.rank == 0 else links.receive(tensor, 0)
        return exchange.wait()[0].tolist()

    assert connect(work) == [[0, 0]] * 2


def test_timed_exchanges_have_a_span_on_a_stream_that_follows_them(connect):
    def work(communicator):
        communicator.timed = True
        spans = [communicator.all_reduce(torch.ones(1)).span for _ in range(2)]
        assert communicator._watch.told == ["wait", *spans[0], "wait", *spans[1]]
        return True

    assert all(connect(work))


def test_after_an_abort_exchanges_fail(connect):
    def work(communicator):
        exchange = communicator.all_reduce(torch.ones(1))
        exchange.wait()
        communicator.abort()
        for call in (exchange.wait, lambda: communicator.all_reduce(torch.ones(1))):
            with pytest.raises(GroupFailedError, match="epoch is over"):
                call()
        return True

    assert all(connect(work))


def test_an_abort_does_not_wait_for_graphs_that_hold_exchanges(connect):
    def work(communicator):
        are_destroyed, is_over = threading.Event(), threading.Event()
        abort = communicator._group.abort

        def end():
            assert are_destroyed.wait(20.0)
            abort()
            is_over.set()

        communicator._group = SimpleNamespace(abort=end)
        communicator.abort()
        communicator.abort()
        with pytest.raises(GroupFailedError, match="epoch is over"):
            communicator.all_reduce(torch.ones(1))
        are_destroyed.set()
        communicator.close()
        assert is_over.is_set()

    connect(work)


def test_what_nccl_reports_is_an_error_of_the_group(connect):
    def work(communicator):
        with pytest.raises(GroupFailedError, match="other ranks failed"):
            communicator.broadcast(torch.ones(2).to_sparse())
        return True

    assert all(connect(work))
