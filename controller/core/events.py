"""What becomes of requests, as values for the gateways' streams."""

from dataclasses import dataclass
from typing import NamedTuple

from liger.domain import FinishReason
from liger.errors import LigerError
from liger.schedule import ItemResult, Logprob


class Stream(NamedTuple):
    """A sample, by the number under which its gateway knows it."""

    conversation: int  # with which gateway
    number: int  # one sample's of all in the conversation
    request_id: str
    sample: int


class StepMade(NamedTuple):
    """One token of each of some samples that go on, with nothing to tell beside it: in columns, for most are so."""

    streams: list[Stream]  # all of one conversation
    offsets: list[int]  # tokens of each sample before its
    token_ids: list[int]

    @property
    def request_id(self) -> str:
        """One of the requests: who takes its events takes these."""
        return self.streams[0].request_id


class TokensMade(NamedTuple):
    """More tokens of a sample; with `finish_reason`, its last ones."""

    request_id: str
    sample: int
    offset: int  # tokens of this sample before these
    token_ids: tuple[int, ...]
    logprobs: tuple[Logprob, ...] = ()
    finish_reason: FinishReason | None = None
    prompt_logprobs: tuple[Logprob, ...] = ()  # of the request's prompt, once, where asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputMade:
    """One input's outputs."""

    request_id: str
    item: int
    result: ItemResult


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAccount:
    """What a request cost. Nanoseconds."""

    num_prompt_tokens: int
    num_completion_tokens: int
    queue_ns: int
    prefill_ns: int
    decode_ns: int
    compute_ns: int
    exposed_ns: int
    depth: int
    num_cached_tokens: int = 0  # prompt tokens found in the prefix cache
    saved_prefill_ns: int = 0  # what computing them would have taken, as predicted


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEnded:
    """A request ended well; its last event."""

    request_id: str
    account: RequestAccount


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestBroken:
    """A request failed; its last event."""

    request_id: str
    error: LigerError


Event = StepMade | TokensMade | OutputMade | RequestEnded | RequestBroken
