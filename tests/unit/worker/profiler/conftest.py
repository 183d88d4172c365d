import pytest

from liger.domain import Fence
from tests.unit.worker.profiler.measuring import HOST, Rank
from worker.rank import JoinPlan
from worker.rendezvous import RendezvousStore


@pytest.fixture
def store():
    store = RendezvousStore(HOST)
    yield store
    store.close()


@pytest.fixture
def ranks(tiny_model, store, tmp_path):
    """Return a function that makes the ranks of an epoch, each with profiles of its own."""

    def make(name: str = "llama", *, tp_size: int = 2, epoch: int = 1, stage_layers=(3,), stage=0) -> list[Rank]:
        folder, _ = tiny_model(name)
        return [
            Rank(
                folder,
                store,
                JoinPlan(
                    fence=Fence(leader_term=1, group="g", epoch=epoch),
                    tp_rank=rank,
                    tp_size=tp_size,
                    pp_stage=stage,
                    pp_size=1,
                    rendezvous_endpoint=store.endpoint,
                    num_slots=2,
                    max_batch_tokens=64,
                    num_rows=8,
                    stage_layers=stage_layers,
                ),
                tmp_path / f"profiles-{rank}",
            )
            for rank in range(tp_size)
        ]

    return make
