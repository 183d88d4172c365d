"""Exchanges between processes on GPUs: right bytes, in graphs and out, in any rhythm, and an end when a rank is gone.

Ranks share the GPUs that there are. As a script it also times them:
`python -m tests.gpu.test_communicators --way host --ranks 2`.
"""

import argparse
import os
import random
import socket
import threading
import time
from datetime import timedelta
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from liger.errors import GroupFailedError
from worker.communicator.copy_engine.opening import open_copy_engine
from worker.communicator.memory import ExchangeMemory
from worker.communicator.nccl import NcclCommunicator
from worker.communicator.pieces import sum_in_order, whole

HIDDEN = 512
MAX_TOKENS = 2048
NUM_SLOTS = 3
LIMIT_S = 60.0
DTYPES = (torch.bfloat16, torch.float32, torch.float16)


class Ranks:
    """One rank's side of a test: its communicator, and what it found wrong, counted on the device."""

    def __init__(self, communicator, rank, size, device):
        self.communicator, self.rank, self.size, self.device = communicator, rank, size, device
        self.num_wrong = torch.zeros((), dtype=torch.int64, device=device)
        self.column = torch.arange(MAX_TOKENS * HIDDEN, device=device)

    def values(self, rank, number, rows, dtype):
        """Small integers, exact in every dtype."""
        flat = (self.column[: rows * HIDDEN] * 31 + number * 7 + rank * 13) % 251
        return flat.to(dtype).view(rows, HIDDEN)

    def write(self, slot, place, number, rows, dtype):
        partial = self.communicator.partial(slot, place, (rows, HIDDEN), dtype)
        partial.copy_(self.values(self.rank, number, rows, dtype))
        return partial

    def check(self, addends, number, rows, dtype):
        wanted = [self.values(rank, number, rows, dtype) for rank in range(self.size)]
        if len(addends) == 1:
            wanted = [sum_in_order(wanted)]
        for addend, one in zip(addends, wanted, strict=True):
            self.num_wrong += (addend != one).sum()

    def finish(self):
        assert self.num_wrong.item() == 0, f"rank {self.rank} found {self.num_wrong.item()} wrong numbers"


def exchanges_of_any_shape(ranks):
    rng = random.Random(1)  # the same on all ranks
    for number in range(60):
        slot, place, dtype = number // 2 % NUM_SLOTS, number % 2, rng.choice(DTYPES)
        rows = rng.choice([1, 2, 3, 5, 64, 700, MAX_TOKENS])
        partial = ranks.write(slot, place, number, rows, dtype)
        cuts = sorted({0, rows, *(rng.randint(0, rows) for _ in range(rng.randint(0, 3)))})
        parts = [ranks.communicator.all_reduce(partial[a:b]) for a, b in pairwise(cuts)]
        ranks.check(whole([part.wait() for part in parts]), number, rows, dtype)
    ranks.finish()


def gathers_of_any_size(ranks):
    for number, count in enumerate([1, 7, 1000, (1 << 18) + 1, 1 << 20]):
        for dtype in (torch.float32, torch.int64, torch.uint8):
            part = (torch.arange(count, device=ranks.device) % 100 + ranks.rank + number).to(dtype)
            for rank, one in enumerate(ranks.communicator.all_gather(part).wait()):
                ranks.num_wrong += (one != part - ranks.rank + rank).sum()
    other = torch.full((999, 3), float(ranks.rank + 1), device=ranks.device)
    total = sum_in_order(ranks.communicator.all_reduce(other).wait())
    ranks.num_wrong += (total != ranks.size * (ranks.size + 1) / 2).sum()
    ranks.finish()


def forward(ranks, slots, inputs, outputs):
    """Two layers of slots side by side: what is exchanged depends on what was, as in a model."""
    for layer in range(2):
        for place in range(2):
            begun = []
            for slot in slots:
                rows = len(inputs[slot])
                partial = ranks.communicator.partial(slot, place, (rows, HIDDEN), torch.bfloat16)
                torch.mul(inputs[slot] if layer == place == 0 else outputs[slot], 0.25 * (ranks.rank + 1), out=partial)
                half = rows // 2
                parts = [partial[:half], partial[half:]] if place and half else [partial]
                begun.append([ranks.communicator.all_reduce(part) for part in parts])
            for slot, parts in zip(slots, begun, strict=True):
                outputs[slot].copy_(sum_in_order(whole([part.wait() for part in parts])) + layer)


def graphs_between_eager_exchanges(ranks):
    slots = range(NUM_SLOTS)
    inputs = [ranks.values(0, slot, rows, torch.bfloat16) for slot, rows in enumerate((1, 33, 2000))]
    outputs = [torch.zeros_like(one) for one in inputs]
    forward(ranks, slots, inputs, outputs)
    wanted = [one.clone() for one in outputs]
    graph = torch.cuda.CUDAGraph()
    torch.cuda.current_stream().synchronize()
    graph.capture_begin(capture_error_mode="thread_local")
    forward(ranks, slots, inputs, outputs)
    graph.capture_end()
    rng = random.Random(2)
    for _ in range(100):
        delay(ranks, 0.2)
        for one in outputs:
            one.zero_()
        if rng.random() < 0.6:
            graph.replay()
        else:
            forward(ranks, slots, inputs, outputs)
        for one, good in zip(outputs, wanted, strict=True):
            ranks.num_wrong += (one != good).sum()
    ranks.finish()
    digest = torch.stack([one.view(torch.int16).long().sum() for one in outputs])
    for other in ranks.communicator.all_gather(digest).wait():
        ranks.num_wrong += (other != digest).sum()
    ranks.finish()
    graph.reset()


def many_exchanges_in_any_rhythm(ranks, count=10_000):
    """Slots overlap; every rank dawdles at times of its own, on the device and on the host."""
    count = int(os.environ.get("LIGER_EXCHANGES", count))
    rng, own = random.Random(3), random.Random(100 + ranks.rank)
    places, pending = [0] * NUM_SLOTS, {}
    for number in range(count):
        slot = rng.randrange(NUM_SLOTS)
        rows = rng.choice([1, 4, 32, 200, 1500])
        if rng.random() < 0.05:
            part = torch.full((rng.randint(1, 5000),), number + ranks.rank, device=ranks.device)
            for rank, one in enumerate(ranks.communicator.all_gather(part).wait()):
                ranks.num_wrong += (one != number + rank).sum()
        if slot in pending:
            ranks.check(*pending.pop(slot))
        delay(ranks, 0.02, own)
        partial = ranks.write(slot, places[slot], number, rows, torch.bfloat16)
        exchange = ranks.communicator.all_reduce(partial)
        pending[slot] = (_Late(exchange), number, rows, torch.bfloat16)
        places[slot] ^= 1
        if own.random() < 0.001:
            time.sleep(0.01)
    for late in pending.values():
        ranks.check(*late)
    ranks.finish()


class _Late:
    """Addends that are waited for when they are looked at."""

    def __init__(self, exchange):
        self.exchange = exchange

    def __len__(self):
        return len(self.exchange.wait())

    def __iter__(self):
        return iter(self.exchange.wait())

    def __getitem__(self, place):
        return self.exchange.wait()[place]


def delay(ranks, share, rng=random):
    if rng.random() < share:
        torch.cuda._sleep(int(rng.random() * 400_000))


def an_abort_while_a_rank_never_comes(ranks):
    if ranks.rank == 0:
        communicator = ranks.communicator
        for number in range(50):
            communicator.all_reduce(ranks.write(0, number % 2, number, 2000, torch.bfloat16)).wait()
        aborter = threading.Timer(0.5, communicator.abort)
        aborter.start()
        torch.cuda.synchronize()  # would never return
        aborter.join()
        with pytest.raises(GroupFailedError):
            communicator.all_reduce(communicator.partial(0, 0, (1, HIDDEN), torch.bfloat16))


def times(ranks):
    """Print what an exchange costs the host and takes, alone and several at once."""
    for rows in (1, 16, 128, 512, 1024, MAX_TOKENS):
        host_us, lane_us = [], []
        for turn in range(12):
            parts = [ranks.communicator.partial(slot, turn % 2, (rows, HIDDEN), torch.bfloat16) for slot in range(3)]
            torch.cuda.synchronize()
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            begun = time.perf_counter()
            exchanges = [ranks.communicator.all_reduce(part) for part in parts]
            host_us.append((time.perf_counter() - begun) / 3 * 1e6)
            for exchange in exchanges:
                exchange.wait()
            ended.record()
            torch.cuda.synchronize()
            lane_us.append(began.elapsed_time(ended) / 3 * 1e3)
        if ranks.rank == 0:
            size = rows * HIDDEN * 2 / 1024
            print(
                f"  {size:8.0f} KiB: host {sorted(host_us)[6]:6.1f} µs a call, {sorted(lane_us)[6]:8.1f} µs an exchange"
            )


SCENARIOS = {
    function.__name__: function
    for function in (
        exchanges_of_any_shape,
        gathers_of_any_size,
        graphs_between_eager_exchanges,
        many_exchanges_in_any_rhythm,
        an_abort_while_a_rank_never_comes,
        times,
    )
}


def run_rank(rank, size, way, names, port):
    """One rank's process."""
    os.environ["NCCL_P2P_DISABLE"] = "1" if way == "host" else "0"
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "16")
    device = torch.device("cuda", rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    store = dist.TCPStore(
        "127.0.0.1", port, is_master=rank == 0, wait_for_workers=False, timeout=timedelta(seconds=LIMIT_S)
    )
    memory = ExchangeMemory(
        num_slots=NUM_SLOTS, max_tokens=MAX_TOKENS, hidden_size=HIDDEN, dtype=torch.float32, device=device
    )
    for name in names:
        prefixed = dist.PrefixStore(name, store)
        opener = NcclCommunicator if way == "nccl" else open_copy_engine
        with torch.cuda.stream(torch.cuda.Stream(device)), torch.inference_mode():
            began = time.perf_counter()
            communicator = opener(prefixed, rank=rank, world_size=size, memory=memory, limit_s=LIMIT_S)
            opened = time.perf_counter()
            if way != "nccl":
                assert communicator.is_staged == (way == "host")
            SCENARIOS[name](Ranks(communicator, rank, size, device))
            torch.cuda.synchronize()
            meet(prefixed, rank, size)
            communicator.close()
            if rank == 0:
                ended = time.perf_counter()
                print(f"{way} {name}: opened in {opened - began:.2f} s, ran {ended - opened:.2f} s", flush=True)
    meet(store, rank, size)  # the store is rank 0's


def meet(store, rank, size):
    store.set(f"end/{rank}", "")
    store.wait([f"end/{other}" for other in range(size)])


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_group(size, way, names, limit_s):
    """Run scenarios in new processes; they are ended if they do not end in time."""
    context = mp.spawn(run_rank, (size, way, names, free_port()), nprocs=size, join=False)
    ends_at = time.monotonic() + limit_s
    try:
        while not context.join(timeout=1.0):
            assert time.monotonic() < ends_at, f"{names} by {way} did not end within {limit_s:.0f} s"
    finally:
        for process in context.processes:
            process.kill()


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("way", ["peer", "host", "nccl"])
def test_exchanges_give_all_ranks_the_right_bytes(way, size):
    skip_unless_possible(way, size)
    names = ["exchanges_of_any_shape", "gathers_of_any_size", "graphs_between_eager_exchanges"]
    run_group(size, way, names, 240.0)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("way", ["peer", "host"])
def test_many_exchanges_in_any_rhythm_neither_hang_nor_err(way, size):
    run_group(size, way, ["many_exchanges_in_any_rhythm"], 280.0)


@pytest.mark.parametrize("way", ["peer", "host", "nccl"])
def test_an_abort_ends_exchanges_with_a_rank_that_never_comes(way):
    skip_unless_possible(way, 2)
    run_group(2, way, ["an_abort_while_a_rank_never_comes"], 120.0)


def skip_unless_possible(way, size):
    if way == "nccl" and torch.cuda.device_count() < size:
        pytest.skip(f"NCCL needs {size} GPUs")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=["peer", "host", "nccl"], default="host")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--only", choices=list(SCENARIOS), nargs="*", default=list(SCENARIOS))
    parser.add_argument("--limit-s", type=float, default=240.0)
    options = parser.parse_args()
    run_group(options.ranks, options.way, options.only, options.limit_s)


if __name__ == "__main__":
    main()
