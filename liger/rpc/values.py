"""Small values that every codec writes or reads in the same way."""

from liger.domain import Fence
from liger.schedule import Logprob
from liger.v1 import types_pb2


def from_fence(fence: Fence) -> types_pb2.Fence:
    """Return a fence as a message."""
    return types_pb2.Fence(leader_term=fence.leader_term, group=fence.group, epoch=fence.epoch)


def from_logprob(logprob: Logprob) -> types_pb2.TokenLogprob:
    """Return a token's likelihood as a message."""
    return types_pb2.TokenLogprob(
        token_id=logprob.token_id,
        logprob=logprob.logprob,
        top_token_ids=logprob.top_token_ids,
        top_logprobs=logprob.top_logprobs,
    )


def to_logprob(message: types_pb2.TokenLogprob) -> Logprob:
    """Return a token's likelihood."""
    return Logprob(
        token_id=message.token_id,
        logprob=message.logprob,
        top_token_ids=tuple(message.top_token_ids),
        top_logprobs=tuple(message.top_logprobs),
    )
