"""What gateways send, checked; what they are sent."""

from collections.abc import Sequence
from typing import Final

from controller.core.events import OutputMade, RequestAccount, RequestBroken, RequestEnded, StepMade, TokensMade
from controller.core.requests import EncodeItem, EncodeWork, GenerateWork, Request
from liger.domain import ClassifyOutput, EncodeOutput, Fence, Pooling, PoolOutput, ScoreOutput, Task
from liger.errors import InvalidRequestError, NotServedError
from liger.rpc.sampling import MAX_LOGPROBS, to_constraint, to_sampling
from liger.rpc.status import to_message
from liger.rpc.values import from_logprob
from liger.v1 import controller_pb2, types_pb2

MAX_SAMPLES = 64
MAX_STREAM = 2**63  # room for the samples' numbers behind the first
MAX_TIMEOUT_S = 1e7  # a third of a year; more would not fit the clock's nanoseconds for long

_OUTPUTS: Final[dict[Task, set[type]]] = {
    Task.GENERATE: {GenerateWork},
    Task.EMBED: {PoolOutput},
    Task.CLASSIFY: {ClassifyOutput, ScoreOutput},  # by a head, or by how likely each label is
    Task.RERANK: {ClassifyOutput},
    Task.SCORE: {ScoreOutput},
}


def to_request(message: controller_pb2.Submit, now_ns: int, conversation: int = 0) -> Request:
    """Return the request that a gateway submitted.

    Args:
        message: What it sent.
        now_ns: On the controller's monotonic clock.
        conversation: In which, a number of its own.

    Raises:
        InvalidRequestError: The message breaks its contract.
        NotServedError: It asks for what ranks do not do yet.
    """
    if not message.request_id or not message.model:
        raise InvalidRequestError("a submitted request needs a request_id and a model")
    if message.task not in types_pb2.Task.values() or message.task == types_pb2.TASK_UNSPECIFIED:
        raise InvalidRequestError("a submitted request needs a known task", field="task")
    task = Task(message.task)
    work = _work(message)
    _check_task_fits(task, work)
    return Request(
        request_id=message.request_id,
        model=message.model,
        task=task,
        work=work,
        priority=message.priority,
        deadline_ns=_deadline_ns(message, now_ns),
        trace_context=dict(message.trace_context),
        conversation=conversation,
        first_stream=_first_stream(message),
    )


def _first_stream(message: controller_pb2.Submit) -> int | None:
    if not message.HasField("first_stream"):
        return None
    if message.first_stream > MAX_STREAM:
        raise InvalidRequestError(f"first_stream must be at most {MAX_STREAM}", field="first_stream")
    return message.first_stream


def _deadline_ns(message: controller_pb2.Submit, now_ns: int) -> int | None:
    if not message.HasField("timeout_s"):
        return None
    if not abs(message.timeout_s) <= MAX_TIMEOUT_S:  # NaN compares false
        raise InvalidRequestError(f"timeout_s must be at most {MAX_TIMEOUT_S:.0f} seconds", field="timeout_s")
    return now_ns + round(message.timeout_s * 1e9)


def _check_task_fits(task: Task, work: GenerateWork | EncodeWork) -> None:
    outputs: set[type] = {type(item.output) for item in work.items} if isinstance(work, EncodeWork) else {GenerateWork}
    if len(outputs) != 1 or not outputs <= _OUTPUTS[task]:
        raise InvalidRequestError(f"the work is not that of the task {task.name.lower()}", field="task")


def _work(message: controller_pb2.Submit) -> GenerateWork | EncodeWork:
    match message.WhichOneof("work"):
        case "generate":
            return _generate(message.generate)
        case "encode":
            return _encode(message.encode)
        case _:
            raise InvalidRequestError("a submitted request needs work", field="work")


def _generate(work: controller_pb2.GenerateWork) -> GenerateWork:
    if not work.prompt_token_ids:
        raise InvalidRequestError("the prompt has no tokens", field="generate.prompt_token_ids")
    if not 1 <= work.num_samples <= MAX_SAMPLES or work.max_tokens < 1:
        raise InvalidRequestError(f"num_samples must be 1 to {MAX_SAMPLES} and max_tokens at least 1", field="generate")
    if work.delivered:
        raise NotServedError("delivered is not served yet; leave it unset", field="generate.delivered")
    if work.prompt_logprobs > MAX_LOGPROBS:
        raise InvalidRequestError("prompt_logprobs is out of its range", field="generate.prompt_logprobs")
    logprobs = work.logprobs if work.HasField("logprobs") else None
    sampling = to_sampling(work.sampling, logprobs)
    return GenerateWork(
        prompt_token_ids=tuple(work.prompt_token_ids),
        samplings=(sampling,) * work.num_samples,
        max_tokens=work.max_tokens,
        min_tokens=work.min_tokens,
        stop_token_ids=frozenset(work.stop_token_ids),
        prompt_logprobs=work.prompt_logprobs if work.HasField("prompt_logprobs") else None,
        constraint=to_constraint(work.structured_output) if work.HasField("structured_output") else None,
    )


def _encode(work: controller_pb2.EncodeWork) -> EncodeWork:
    if not work.items:
        raise InvalidRequestError("there are no inputs", field="encode.items")
    return EncodeWork(items=tuple(_item(item, work.head) for item in work.items))


def _item(item: controller_pb2.EncodeWork.Item, head: controller_pb2.EncodeHead) -> EncodeItem:
    if not item.token_ids:
        raise InvalidRequestError("an input has no tokens", field="encode.items.token_ids")
    if item.token_type_ids and len(item.token_type_ids) != len(item.token_ids):
        raise InvalidRequestError("token_type_ids must be as many as token_ids", field="encode.items.token_type_ids")
    return EncodeItem(
        token_ids=tuple(item.token_ids),
        token_type_ids=tuple(item.token_type_ids),
        output=_output(item, head),
    )


def _output(item: controller_pb2.EncodeWork.Item, head: controller_pb2.EncodeHead) -> EncodeOutput:
    match head.WhichOneof("kind"):
        case "pool":
            if head.pool.pooling not in set(map(int, Pooling)):
                raise InvalidRequestError("pooling must be one that is known", field="encode.head.pool.pooling")
            pooling = Pooling(head.pool.pooling)
            return PoolOutput(pooling=pooling, normalize=head.pool.normalize, dimensions=head.pool.dimensions)
        case "classify":
            return ClassifyOutput()
        case "score":
            if not 1 <= item.score_from <= len(item.token_ids):
                raise InvalidRequestError("score_from must be inside the input", field="encode.items.score_from")
            return ScoreOutput(score_from=item.score_from)
        case _:
            raise InvalidRequestError("an encode request needs a head", field="encode.head")


def add_columns(step: controller_pb2.StepTokens, event: StepMade) -> None:
    """Add one token each of some samples to a message."""
    step.streams.extend([stream.number for stream in event.streams])
    step.offsets.extend(event.offsets)
    step.token_ids.extend(event.token_ids)


def add_tokens(step: controller_pb2.StepTokens, event: TokensMade) -> controller_pb2.SampleTokens:
    """Add a sample's tokens to a message and return its part of it."""
    part = step.tokens.add(request_id=event.request_id, sample=event.sample, offset=event.offset)
    extend_tokens(part, event)
    return part


def extend_tokens(part: controller_pb2.SampleTokens, event: TokensMade) -> None:
    """Add a sample's further tokens to its part of a message."""
    part.token_ids.extend(event.token_ids)
    if event.finish_reason is not None:
        part.finish_reason = types_pb2.FinishReason.ValueType(event.finish_reason)
    if event.logprobs:
        part.logprobs.extend(map(from_logprob, event.logprobs))
    if event.prompt_logprobs:
        part.prompt_logprobs.extend(map(from_logprob, event.prompt_logprobs))


def from_event(
    event: OutputMade | RequestEnded | RequestBroken, fence: Fence, worker_ids: Sequence[str]
) -> controller_pb2.ConnectResponse:
    """Return the message that tells a gateway of an event; tokens share one (`add_tokens`)."""
    match event:
        case OutputMade(request_id=request_id, item=item, result=result):
            output = controller_pb2.EncodeOutput(request_id=request_id, item=item, values=result.values)
            output.logprobs.extend(map(from_logprob, result.logprobs))
            return controller_pb2.ConnectResponse(output=output)
        case RequestEnded(request_id=request_id, account=account):
            placement = types_pb2.Placement(group=fence.group, epoch=fence.epoch, worker_ids=worker_ids)
            ended = _finished(request_id, account, placement)
            return controller_pb2.ConnectResponse(finished=ended)
        case RequestBroken():
            return broken(event)


def broken(event: RequestBroken) -> controller_pb2.ConnectResponse:
    """Return the message that tells a gateway of a failed request."""
    failed = controller_pb2.RequestFailed(request_id=event.request_id, error=to_message(event.error))
    return controller_pb2.ConnectResponse(failed=failed)


def _finished(
    request_id: str, account: RequestAccount, placement: types_pb2.Placement
) -> controller_pb2.RequestFinished:
    usage = types_pb2.Usage(
        prompt_tokens=account.num_prompt_tokens,
        completion_tokens=account.num_completion_tokens,
        cached_tokens=account.num_cached_tokens,
    )
    timings = types_pb2.Timings(
        queue_ns=account.queue_ns,
        prefill_ns=account.prefill_ns,
        decode_ns=account.decode_ns,
        compute_ns=account.compute_ns,
        exposed_communication_ns=account.exposed_ns,
        depth=account.depth,
        saved_prefill_ns=account.saved_prefill_ns,
    )
    return controller_pb2.RequestFinished(request_id=request_id, usage=usage, timings=timings, placement=placement)
