"""Results to the messages that clients get."""

from collections.abc import Iterable

from gateway.model import Served
from liger.client.results import (
    ClassifyReply,
    Delta,
    EmbedReply,
    Finished,
    GenerateEvent,
    Placement,
    RerankReply,
    ScoreReply,
    Started,
    Summary,
    Timings,
    TokenizeReply,
    Usage,
)
from liger.schedule import Logprob
from liger.v1 import inference_pb2 as pb
from liger.v1 import types_pb2


def from_event(event: GenerateEvent) -> pb.GenerateResponse:
    """Return a generation's event as a message."""
    match event:
        case Started():
            return pb.GenerateResponse(
                started=pb.GenerateStarted(
                    request_id=event.request_id,
                    model=event.model,
                    num_prompt_tokens=event.num_prompt_tokens,
                    seed=event.seed,
                    prompt_logprobs=from_logprobs(event.prompt_logprobs),
                )
            )
        case Delta():
            logprobs = from_logprobs(event.logprobs)
            delta = pb.GenerateDelta(index=event.index, text=event.text, token_ids=event.token_ids, logprobs=logprobs)
            return pb.GenerateResponse(delta=delta)
        case Finished():
            reason = types_pb2.FinishReason.ValueType(event.reason)
            finished = pb.GenerateFinished(
                index=event.index, reason=reason, stop=event.stop, num_tokens=event.num_tokens, logprob=event.logprob
            )
            return pb.GenerateResponse(finished=finished)
        case Summary(usage=usage, timings=timings, placement=placement):
            summary = pb.GenerateSummary(
                usage=from_usage(usage), timings=from_timings(timings), placement=from_placement(placement)
            )
            return pb.GenerateResponse(summary=summary)


def from_reply(reply: EmbedReply | ClassifyReply | RerankReply | ScoreReply) -> pb.InferResponse:
    """Return an Infer call's reply as a message."""
    message = pb.InferResponse(
        request_id=reply.request_id,
        model=reply.model,
        usage=from_usage(reply.usage),
        timings=from_timings(reply.timings),
        placement=from_placement(reply.placement),
    )
    match reply:
        case EmbedReply():
            message.embed.CopyFrom(_embed(reply))
        case ClassifyReply():
            message.classify.CopyFrom(_classify(reply))
        case RerankReply():
            ranking = [pb.RerankResult.Rank(index=rank.index, score=rank.score) for rank in reply.ranking]
            message.rerank.CopyFrom(pb.RerankResult(ranking=ranking))
        case ScoreReply():
            message.score.CopyFrom(_score(reply))
    return message


def from_tokenize(reply: TokenizeReply) -> pb.TokenizeResponse:
    """Return a text's tokens as a message."""
    return pb.TokenizeResponse(token_ids=reply.token_ids, tokens=reply.tokens)


def from_served(served: Served, *, has_chat_template: bool) -> pb.GetModelResponse:
    """Return a model's description as a message."""
    model = served.model
    info = types_pb2.ModelInfo(
        name=model.name,
        architecture=model.architecture,
        tasks=[types_pb2.Task.ValueType(task) for task in sorted(model.tasks)],
        max_length=model.max_length,
        vocabulary_size=model.vocabulary_size,
        hidden_size=model.hidden_size,
        num_layers=model.num_layers,
        labels=model.labels,
        default_pooling=types_pb2.Pooling.ValueType(model.default_pooling),
        default_normalize=model.default_normalize,
        eos_token_ids=model.eos_token_ids,
        dtype=model.dtype,
        fingerprint=model.fingerprint,
        multi_label=model.multi_label,
        num_token_types=model.num_token_types,
    )
    return pb.GetModelResponse(model=info, num_groups=served.num_groups, has_chat_template=has_chat_template)


def from_logprobs(logprobs: Iterable[Logprob]) -> list[types_pb2.TokenLogprob]:
    """Return tokens' likelihoods as messages."""
    return [
        types_pb2.TokenLogprob(
            token_id=item.token_id,
            logprob=item.logprob,
            top_token_ids=item.top_token_ids,
            top_logprobs=item.top_logprobs,
        )
        for item in logprobs
    ]


def from_usage(usage: Usage) -> types_pb2.Usage:
    """Return counts as a message."""
    return types_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
    )


def from_timings(timings: Timings) -> types_pb2.Timings:
    """Return times as a message."""
    return types_pb2.Timings(
        queue_ns=timings.queue_ns,
        prefill_ns=timings.prefill_ns,
        decode_ns=timings.decode_ns,
        total_ns=timings.total_ns,
        compute_ns=timings.compute_ns,
        exposed_communication_ns=timings.exposed_communication_ns,
        depth=timings.depth,
        saved_prefill_ns=timings.saved_prefill_ns,
    )


def from_placement(placement: Placement) -> types_pb2.Placement:
    """Return who computed as a message."""
    return types_pb2.Placement(group=placement.group, epoch=placement.epoch, worker_ids=placement.worker_ids)


def _embed(reply: EmbedReply) -> pb.EmbedResult:
    return pb.EmbedResult(
        embeddings=[
            pb.EmbedResult.Embedding(values=values, num_tokens=count)
            for values, count in zip(reply.embeddings, reply.num_tokens, strict=True)
        ]
    )


def _classify(reply: ClassifyReply) -> pb.ClassifyResult:
    classifications = [
        pb.ClassifyResult.Classification(label=item.label, scores=item.scores, num_tokens=item.num_tokens)
        for item in reply.classifications
    ]
    return pb.ClassifyResult(classifications=classifications, labels=reply.labels)


def _score(reply: ScoreReply) -> pb.ScoreResult:
    return pb.ScoreResult(
        scores=[
            pb.ScoreResult.Score(logprob=item.logprob, tokens=from_logprobs(item.tokens), greedy=item.greedy)
            for item in reply.scores
        ]
    )
