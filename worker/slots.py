"""What each batch in flight keeps on a rank between its segments."""

from dataclasses import dataclass, field, replace

from torch import Tensor

from liger.schedule import BatchStart
from worker.communicator.base import Exchange
from worker.inputs import BatchInputs, Claim
from worker.outputs import EncodeOutputs, PromptOutputs
from worker.sampling.draw import Drawn
from worker.sampling.sampler import Candidates
from worker.shards.shard import Activation


@dataclass(slots=True, kw_only=True, eq=False)
class Work:
    """What a batch's segments hand on to one another."""

    inputs: BatchInputs | None = None  # from this rank's first compute on
    arrival: Exchange | None = None  # from another stage
    activation: Activation | None = None
    mlp_input: Tensor | None = None  # [num_tokens, hidden], while an MLP runs in pieces
    partial: Tensor | None = None  # [num_tokens, hidden], or candidates: what the next exchange sends
    exchanges: list[Exchange] = field(default_factory=list)  # of `partial`; several for pieces, in row order
    outputs: EncodeOutputs | None = None
    candidates: Candidates | None = None
    prompts: PromptOutputs | None = None
    drawn: Drawn | None = None
    prompt_parts: tuple[Tensor, ...] = ()  # of all ranks, for `prompts`

    def copy(self) -> "Work":
        """Return work that goes on from here apart from this; tensors are the same."""
        act = None if self.activation is None else replace(self.activation)
        return replace(self, activation=act, exchanges=list(self.exchanges))


@dataclass(slots=True, kw_only=True, eq=False)
class Slot:
    """One batch in flight."""

    start: BatchStart
    claim: Claim
    position: int = 0  # the next segment of its forward when the window began
    work: Work = field(default_factory=Work)

    @property
    def number(self) -> int:
        """Which of the rank's slots."""
        return self.start.slot


class Slots:
    """The batches in flight on a rank, each in the slot that the controller gave it."""

    def __init__(self) -> None:
        self._slots: dict[int, Slot] = {}  # by slot
        self._places: dict[int, int] = {}  # by batch id

    def open(self, start: BatchStart, claim: Claim) -> None:
        """Take a slot for a batch."""
        self._slots[start.slot] = Slot(start=start, claim=claim)
        self._places[start.batch_id] = start.slot

    def of(self, batch_id: int) -> Slot:
        """Return a batch's slot."""
        return self._slots[self._places[batch_id]]

    def close(self, batch_id: int) -> None:
        """Free a batch's slot."""
        del self._slots[self._places.pop(batch_id)]
