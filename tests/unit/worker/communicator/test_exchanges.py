"""Ranks as threads of one process, over real sockets."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from liger.domain import Fence
from liger.errors import ConfigError, GroupFailedError
from worker.communicator.connections import Connector
from worker.communicator.gloo import GlooCommunicator
from worker.communicator.local import LocalCommunicator
from worker.communicator.null import NullCommunicator
from worker.rank import JoinPlan
from worker.rendezvous import Rendezvous, RendezvousStore

HOST = "127.0.0.1"


@pytest.fixture
def store():
    store = RendezvousStore(HOST)
    yield store
    store.close()


def plan_of(store, rank, size, epoch=1):
    return JoinPlan(
        fence=Fence(leader_term=1, group="g", epoch=epoch),
        tp_rank=rank,
        tp_size=size,
        pp_stage=0,
        pp_size=1,
        rendezvous_endpoint=store.endpoint,
        num_slots=1,
        max_batch_tokens=1,
        num_rows=1,
        stage_layers=(1,),
    )


def meet(plan, limit_s=30.0, aborted=None):
    rendezvous = Rendezvous(plan, limit_s=limit_s, aborted=aborted or threading.Event())
    return GlooCommunicator(rendezvous.meet(), rank=plan.tp_rank, world_size=plan.tp_size, host=HOST, limit_s=30.0)


def exchange_twice(communicator):
    """The first exchange may be on its way before the other rank closes."""
    for _ in range(2):
        communicator.all_reduce(torch.ones(1)).wait()


def on_ranks(size, work):
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, range(size)))


@pytest.mark.parametrize("size", [2, 3])
def test_sums_are_bit_identical_on_all_ranks_and_parts_come_in_rank_order(store, size):
    partials = [torch.randn(5, 7, generator=torch.Generator().manual_seed(rank)) for rank in range(size)]

    def run(rank):
        communicator = meet(plan_of(store, rank, size))
        (total,) = communicator.all_reduce(partials[rank].clone()).wait()
        parts = communicator.all_gather(torch.full((3,), float(rank))).wait()
        communicator.close()
        return total, parts

    results = on_ranks(size, run)
    assert all(torch.equal(total, results[0][0]) for total, _ in results)
    assert torch.allclose(results[0][0], torch.stack(partials).sum(0), atol=1e-6)
    for _, parts in results:
        assert [part.tolist() for part in parts] == [[float(rank)] * 3 for rank in range(size)]


def test_epochs_meet_apart_in_one_store(store):
    def run(rank):
        sums = []
        for epoch in (1, 2):
            communicator = meet(plan_of(store, rank, 2, epoch))
            sums.append(communicator.all_reduce(torch.ones(1) * epoch).wait()[0].item())
            communicator.close()
        return sums

    assert on_ranks(2, run) == [[2.0, 4.0], [2.0, 4.0]]


def test_an_exchange_with_a_rank_that_is_gone_fails(store):
    def run(rank):
        communicator = meet(plan_of(store, rank, 2))
        if rank == 1:
            communicator.close()
            return None
        with pytest.raises(GroupFailedError, match="other ranks failed"):
            exchange_twice(communicator)
        return "failed"

    assert on_ranks(2, run) == ["failed", None]


def test_a_rank_that_never_comes_is_given_up(store):
    with pytest.raises(GroupFailedError, match="not all ranks came"):
        meet(plan_of(store, 0, 2), limit_s=0.05)


def test_a_meeting_ends_when_the_epoch_does(store):
    aborted = threading.Event()
    aborted.set()
    with pytest.raises(GroupFailedError, match="epoch ended"):
        meet(plan_of(store, 0, 2), aborted=aborted)


def test_a_meeting_place_that_is_no_address_fails_clearly(store):
    with pytest.raises(GroupFailedError, match="cannot be reached"):
        meet(replace(plan_of(store, 0, 2), rendezvous_endpoint="127.0.0.1:none"))


def test_a_host_that_is_not_ours_is_a_config_error():
    with pytest.raises(ConfigError, match="--advertise"):
        RendezvousStore("192.0.2.1")


def test_a_group_of_one_exchanges_nothing():
    communicator = LocalCommunicator()
    partial = torch.ones(3)
    assert communicator.all_reduce(partial).wait() == (partial,)
    assert communicator.all_gather(partial).wait() == (partial,)
    communicator.abort()
    communicator.close()


def test_an_exchange_tells_when_it_ended(store):
    def run(rank):
        communicator = meet(plan_of(store, rank, 2))
        began_ns = time.perf_counter_ns()
        exchanges = [communicator.all_reduce(torch.ones(1000)) for _ in range(3)]
        for exchange in exchanges:
            exchange.wait()
        communicator.all_reduce(torch.ones(1)).wait()
        communicator.close()
        return began_ns, [exchange.ended_ns for exchange in exchanges], time.perf_counter_ns()

    for began_ns, ends, ended_ns in on_ranks(2, run):
        assert all(end is not None and began_ns <= end <= ended_ns for end in ends)


def test_views_of_one_tensor_are_summed_in_place(store):
    def run(rank):
        communicator = meet(plan_of(store, rank, 2))
        partial = torch.arange(12.0).view(4, 3)
        for exchange in [communicator.all_reduce(partial[rows]) for rows in (slice(0, 1), slice(1, 4))]:
            exchange.wait()
        communicator.close()
        return partial

    assert all(torch.equal(total, torch.arange(12.0).view(4, 3) * 2) for total in on_ranks(2, run))


def staged(store, rank, stages, is_null=False):
    plan = replace(plan_of(store, rank, 1), tp_rank=0, tp_size=1, pp_stage=rank, pp_size=stages)
    meeting = Rendezvous(plan, limit_s=30.0, aborted=threading.Event()).meet()
    return Connector(plan, meeting, host=HOST, limit_s=30.0).connect(is_null=is_null)


@pytest.mark.parametrize("stages", [2, 3])
def test_stages_send_on_and_back_in_order_without_waiting(store, stages):
    def run(rank):
        connections = staged(store, rank, stages)
        after, before = (rank + 1) % stages, (rank - 1) % stages
        tensors = [torch.tensor([rank, number]) for number in range(3)]
        sent = [connections.links.send(tensor, after) for tensor in tensors]  # nobody receives yet
        received = [connections.links.receive(torch.empty(2, dtype=torch.int64), before) for _ in range(3)]
        values = [exchange.wait()[0].tolist() for exchange in received]
        for exchange in sent:
            exchange.wait()
        connections.close()
        return values

    for rank, values in enumerate(on_ranks(stages, run)):
        assert values == [[(rank - 1) % stages, number] for number in range(3)]


def test_a_stage_is_let_go_of_where_the_ways_between_stages_do_not_open(store, monkeypatch):
    closed = []

    def refused(*_):
        raise GroupFailedError("nobody there")

    monkeypatch.setattr(Connector, "_link", refused)
    monkeypatch.setattr(LocalCommunicator, "close", lambda _: closed.append(True))
    with pytest.raises(GroupFailedError, match="nobody there"):
        Connector(plan_of(store, 0, 1), None, host=HOST, limit_s=1.0).connect()
    assert closed == [True]


def test_nothing_is_sent_of_an_empty_tensor(store):
    def run(rank):
        connections = staged(store, rank, 2)
        empty = torch.empty(0, dtype=torch.int64)
        exchange = connections.links.send(empty, 1) if rank == 0 else connections.links.receive(empty, 0)
        (result,) = exchange.wait()
        connections.close()
        return len(result)

    assert on_ranks(2, run) == [0, 0]


def test_a_stage_that_is_gone_fails_those_who_wait_for_it(store):
    def run(rank):
        connections = staged(store, rank, 2)
        if rank == 1:
            connections.abort()
            connections.close()
            return None
        with pytest.raises(GroupFailedError, match="other ranks failed"):
            connections.links.receive(torch.empty(4), 1).wait()
        return "failed"

    assert on_ranks(2, run) == ["failed", None]


def test_null_exchanges_give_what_is_there_and_let_integers_pass(store):
    def run(rank):
        communicator = NullCommunicator(meet(plan_of(store, rank, 2)))
        partial = torch.full((2,), rank + 1.0)
        (total,) = communicator.all_reduce(partial).wait()
        parts = communicator.all_gather(partial).wait()
        told = communicator.all_gather(torch.tensor([rank])).wait()
        communicator.close()
        return total.tolist(), [part.tolist() for part in parts], [part.tolist() for part in told]

    for rank, (total, parts, told) in enumerate(on_ranks(2, run)):
        assert total == [rank + 1.0] * 2
        assert parts == [[0.0, 0.0]] * 2
        assert told == [[0], [1]]
