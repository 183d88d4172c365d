"""What goes from stage to stage where batches are padded and lie in fixed memory, as on a device."""

from types import SimpleNamespace

import torch

from liger.domain import Lane, SegmentKind
from liger.schedule import Segment
from worker.communicator.local import DoneExchange
from worker.runner import SegmentRunner
from worker.slots import Slot, Work

SEND = Segment(kind=SegmentKind.SEND, lane=Lane.COMMUNICATION, layer=0, peer=1, stage=0)
NUM_TOKENS, PADDED, HIDDEN = 3, 4, 2


class Shard:
    """Gives the residual itself when a stage ends, as shards do."""

    spec = SimpleNamespace(hidden_size=HIDDEN, rope=None)

    def suspend(self, act):
        return act.residual

    def resume(self, arrived, _, *, residual, rotation):
        assert rotation is None
        return SimpleNamespace(residual=residual.copy_(arrived))


def a_runner(arena, sent):
    return SegmentRunner(
        shard=Shard(),
        communicator=None,
        links=SimpleNamespace(send=lambda tensor, _: sent.append(tensor)),
        table=None,
        inputs=SimpleNamespace(
            dtype=torch.float32, prepare=lambda *_: SimpleNamespace(positions=torch.zeros(PADDED, dtype=torch.int64))
        ),
        sampler=None,
        device=SimpleNamespace(runs_ahead=True, arena=lambda _: SimpleNamespace(hold=lambda *_: arena)),
        recorder=SimpleNamespace(begin_wait=lambda: None, end_wait=lambda: None),
    )


def a_slot(**work):
    return Slot(
        start=SimpleNamespace(slot=0, kind=None), claim=SimpleNamespace(num_tokens=NUM_TOKENS), work=Work(**work)
    )


def test_what_is_sent_is_not_padded_and_outlives_the_slots_next_batch():
    sent, arena = [], torch.ones(PADDED, HIDDEN)
    a_runner(arena, sent).launch(a_slot(activation=SimpleNamespace(residual=arena)), SEND, None)
    arena.fill_(9.0)  # the slot's next batch, before anybody has received
    assert sent[0].tolist() == [[1.0] * HIDDEN] * NUM_TOKENS


def test_what_arrives_is_padded_as_the_batch_is_here():
    sent, arena = [], torch.full((PADDED, HIDDEN), 9.0)
    slot = a_slot(arrival=DoneExchange(torch.ones(NUM_TOKENS, HIDDEN)))
    a_runner(arena, sent).launch(slot, SEND, None)
    assert arena.tolist() == [[1.0] * HIDDEN] * NUM_TOKENS + [[0.0] * HIDDEN]
    assert slot.work.arrival is None
