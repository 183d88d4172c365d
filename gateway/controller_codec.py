"""The conversation with the controller: submissions to messages, messages to events."""

from collections.abc import Iterable
from typing import Final

from gateway.model import Model, Served
from gateway.work import (
    EncodeHead,
    EncodeItem,
    EncodeWork,
    GenerateWork,
    ItemOutput,
    RequestDone,
    SampleTokens,
    ScoreHead,
    Submission,
)
from liger.client.results import Placement, Timings, Usage
from liger.domain import ClassifyOutput, FinishReason, Pooling, PoolOutput, Task
from liger.rpc.sampling import from_constraint, from_sampling
from liger.rpc.values import to_logprob
from liger.schedule import Logprob
from liger.v1 import controller_pb2 as pb
from liger.v1 import types_pb2

_TASKS: Final = frozenset(int(task) for task in Task)


def from_submission(submission: Submission, first_stream: int | None) -> pb.Submit:
    """Return a submission as a message.

    Args:
        submission: What is to be done.
        first_stream: Number of its first sample's stream; None where it has none.
    """
    message = pb.Submit(
        request_id=submission.request_id,
        model=submission.model,
        task=types_pb2.Task.ValueType(submission.task),
        priority=submission.priority,
        timeout_s=submission.timeout_s,
        trace_context=submission.trace_context,
        first_stream=first_stream,
    )
    if isinstance(submission.work, GenerateWork):
        message.generate.CopyFrom(_generate(submission.work))
    else:
        message.encode.CopyFrom(_encode(submission.work))
    return message


def from_cancel(request_id: str, sample: int | None, reason: FinishReason) -> pb.Cancel:
    """Return a cancel as a message."""
    return pb.Cancel(request_id=request_id, sample=sample, reason=types_pb2.FinishReason.ValueType(reason))


def from_acknowledgements(taken: Iterable[tuple[tuple[str, int], int]]) -> pb.Acknowledgements:
    """Return how many tokens of each (request, sample) have reached their client as a message."""
    told = [pb.Acknowledge(request_id=name, sample=sample, num_tokens=count) for (name, sample), count in taken]
    return pb.Acknowledgements(of=told)


def to_served(entry: pb.Catalogue.Entry) -> Served:
    """Return what the controller says of a model; tasks that a newer controller names are left out."""
    info = entry.model
    model = Model(
        name=info.name,
        architecture=info.architecture,
        tasks=frozenset(Task(task) for task in info.tasks if task in _TASKS),
        max_length=info.max_length,
        vocabulary_size=info.vocabulary_size,
        hidden_size=info.hidden_size,
        num_layers=info.num_layers,
        labels=tuple(info.labels),
        default_pooling=Pooling(info.default_pooling or Pooling.MEAN),
        default_normalize=info.default_normalize,
        eos_token_ids=tuple(info.eos_token_ids),
        dtype=info.dtype,
        fingerprint=info.fingerprint,
        multi_label=info.multi_label,
        num_token_types=info.num_token_types,
    )
    return Served(model=model, num_groups=entry.num_groups)


def to_tokens(message: pb.SampleTokens) -> SampleTokens:
    """Return more tokens of a sample."""
    return SampleTokens(
        sample=message.sample,
        offset=message.offset,
        token_ids=tuple(message.token_ids),
        logprobs=to_logprobs(message.logprobs),
        finish_reason=FinishReason(message.finish_reason) if message.finish_reason else None,
        prompt_logprobs=to_logprobs(message.prompt_logprobs),
    )


def to_output(message: pb.EncodeOutput) -> ItemOutput:
    """Return one input's outputs."""
    return ItemOutput(item=message.item, values=tuple(message.values), logprobs=to_logprobs(message.logprobs))


def to_done(message: pb.RequestFinished) -> RequestDone:
    """Return a request's good end."""
    usage, timings, placement = message.usage, message.timings, message.placement
    return RequestDone(
        usage=Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
        ),
        timings=Timings(
            queue_ns=timings.queue_ns,
            prefill_ns=timings.prefill_ns,
            decode_ns=timings.decode_ns,
            total_ns=timings.total_ns,
            compute_ns=timings.compute_ns,
            exposed_communication_ns=timings.exposed_communication_ns,
            depth=timings.depth,
            saved_prefill_ns=timings.saved_prefill_ns,
        ),
        placement=Placement(group=placement.group, epoch=placement.epoch, worker_ids=tuple(placement.worker_ids)),
    )


def to_logprobs(messages: Iterable[types_pb2.TokenLogprob]) -> tuple[Logprob, ...]:
    """Return tokens' likelihoods."""
    return tuple(map(to_logprob, messages))


def _generate(work: GenerateWork) -> pb.GenerateWork:
    sampling = work.sampling
    return pb.GenerateWork(
        prompt_token_ids=work.prompt_token_ids,
        sampling=from_sampling(sampling),
        num_samples=work.num_samples,
        max_tokens=work.max_tokens,
        min_tokens=work.min_tokens,
        stop_token_ids=work.stop_token_ids,
        logprobs=sampling.logprobs,
        prompt_logprobs=work.prompt_logprobs,
        structured_output=from_constraint(work.constraint),
    )


def _encode(work: EncodeWork) -> pb.EncodeWork:
    return pb.EncodeWork(items=[_item(item) for item in work.items], head=_head(work.head))


def _item(item: EncodeItem) -> pb.EncodeWork.Item:
    return pb.EncodeWork.Item(token_ids=item.token_ids, token_type_ids=item.token_type_ids, score_from=item.score_from)


def _head(head: EncodeHead) -> pb.EncodeHead:
    match head:
        case PoolOutput():
            pooling = types_pb2.Pooling.ValueType(head.pooling)
            pool = pb.PoolHead(pooling=pooling, normalize=head.normalize, dimensions=head.dimensions)
            return pb.EncodeHead(pool=pool)
        case ClassifyOutput():
            return pb.EncodeHead(classify=pb.ClassifyHead())
        case ScoreHead():
            return pb.EncodeHead(score=pb.ScoreHead())
