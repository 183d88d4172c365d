"""The load: a made-up model of 30 layers on two lanes, and a client whose generations follow one another."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Final

from bench import made_model
from liger.domain import ModelCard, SegmentKind, Task
from liger.profile import ProfileTable
from liger.rpc.status import from_message
from liger.v1 import controller_pb2, types_pb2

MODEL: Final = "made-up"
BLOCK_SIZE: Final = 16
PROMPT_TOKENS: Final = 128
MOST_TOKENS: Final = 256  # of an output
ACKNOWLEDGE_EVERY: Final = 64  # tokens of a sample, as gateways do
FORWARDS: Final = made_model.made_forwards(30)
CARD: Final = ModelCard(
    name=MODEL,
    architecture="MadeUp",
    tasks=(Task.GENERATE,),
    max_length=4096,
    vocabulary_size=50_000,
    hidden_size=2048,
    num_layers=30,
    fingerprint="made-up",
)

_SPEED: Final = {"floor_ns": 20_000, "token_ns": 200}


def duration_ns(segment: SegmentKind, num_tokens: int) -> int:
    """Return how long a segment takes: a decode step of 256 sequences takes 13 ms where nothing overlaps."""
    return made_model.made_duration_ns(segment, num_tokens, **_SPEED)


def made_profile() -> ProfileTable:
    """Return what ranks would measure of this model."""
    return made_model.made_profile(**_SPEED)


def request_id(number: int) -> str:
    """Return the id of a request, whose only sample has the stream of the same number."""
    return f"request-{number:09d}"


def blocks_for(num_sequences: int) -> int:
    """Return the KV blocks in which so many generations always fit."""
    return 2 * num_sequences * (PROMPT_TOKENS + MOST_TOKENS) // BLOCK_SIZE


@dataclass(frozen=True, slots=True)
class Load:
    """Generations, so many at once."""

    num_sequences: int

    def submits(self) -> Iterator[controller_pb2.ConnectRequest]:
        """Give requests without end: prompts differ, and the first ones end at different times."""
        chance = Random(1)  # noqa: S311 - the same load in every run
        for number in count():
            prompt = chance.choices(range(CARD.vocabulary_size), k=PROMPT_TOKENS)
            is_first = number < self.num_sequences
            max_tokens = 1 + number * MOST_TOKENS // self.num_sequences if is_first else MOST_TOKENS
            work = controller_pb2.GenerateWork(
                prompt_token_ids=prompt,
                sampling=types_pb2.SamplingParameters(temperature=0.8, top_p=0.95, seed=number),
                num_samples=1,
                max_tokens=max_tokens,
                stop_token_ids=[CARD.vocabulary_size - 1],
            )
            submit = controller_pb2.Submit(
                request_id=request_id(number),
                model=MODEL,
                task=types_pb2.TASK_GENERATE,
                generate=work,
                first_stream=number,
            )
            yield controller_pb2.ConnectRequest(submit=submit)


class Client:
    """What stands behind a gateway: it reads all, and follows a generation that ends by another.

    Args:
        load: What it asks for.
    """

    def __init__(self, load: Load) -> None:
        self.num_tokens = 0
        self.num_messages = 0
        self.num_finished = 0
        self._load = load
        self._submits = load.submits()

    def begin(self) -> list[controller_pb2.ConnectRequest]:
        """Return the first requests."""
        return [next(self._submits) for _ in range(self._load.num_sequences)]

    def take(self, response: controller_pb2.ConnectResponse) -> list[controller_pb2.ConnectRequest]:
        """Take a message and return what the gateway says to it: acknowledgements, a further request.

        Raises:
            LigerError: A request failed, so that figures would mean nothing.
        """
        self.num_messages += 1
        match response.WhichOneof("message"):
            case "step":
                return self._take_step(response.step)
            case "finished":
                self.num_finished += 1
                return [next(self._submits)]
            case "failed":
                raise from_message(response.failed.error)
        return []

    def _take_step(self, step: controller_pb2.StepTokens) -> list[controller_pb2.ConnectRequest]:
        self.num_tokens += len(step.token_ids) + sum(len(part.token_ids) for part in step.tokens)
        given = {part.request_id: part.offset + len(part.token_ids) for part in step.tokens}
        due = [place for place, offset in enumerate(step.offsets) if (offset + 1) % ACKNOWLEDGE_EVERY == 0]
        given |= {request_id(step.streams[place]): step.offsets[place] + 1 for place in due}
        said = [
            controller_pb2.Acknowledge(request_id=name, num_tokens=count)
            for name, count in given.items()
            if count % ACKNOWLEDGE_EVERY == 0
        ]
        acknowledgements = controller_pb2.Acknowledgements(of=said)
        return [controller_pb2.ConnectRequest(acknowledgements=acknowledgements)] if said else []
