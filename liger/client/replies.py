"""Messages of `liger.v1` to the client's results."""

from collections.abc import Iterable
from typing import Any, Final

from liger.client import results
from liger.domain import FinishReason, Pooling, Task
from liger.schedule import Logprob
from liger.v1 import inference_pb2 as pb
from liger.v1 import types_pb2

_TASKS: Final = frozenset(int(task) for task in Task)


def event(message: pb.GenerateResponse) -> results.GenerateEvent | None:
    """Return a generation's event; None for kinds that a newer gateway sends and this client does not know."""
    match message.WhichOneof("event"):
        case "started":
            return _started(message.started)
        case "delta":
            return _delta(message.delta)
        case "finished":
            return _finished(message.finished)
        case "summary":
            return results.Summary(**_account(message.summary))
        case _:
            return None


def embed_reply(message: pb.InferResponse) -> results.EmbedReply:
    """Return an embedding's reply."""
    vectors = message.embed.embeddings
    return results.EmbedReply(
        embeddings=tuple(tuple(vector.values) for vector in vectors),
        num_tokens=tuple(vector.num_tokens for vector in vectors),
        **_common(message),
    )


def classify_reply(message: pb.InferResponse) -> results.ClassifyReply:
    """Return a classification's reply."""
    classifications = tuple(
        results.Classification(label=item.label, scores=tuple(item.scores), num_tokens=item.num_tokens)
        for item in message.classify.classifications
    )
    return results.ClassifyReply(
        classifications=classifications, labels=tuple(message.classify.labels), **_common(message)
    )


def rerank_reply(message: pb.InferResponse) -> results.RerankReply:
    """Return a reranking's reply."""
    ranking = tuple(results.Rank(index=rank.index, score=rank.score) for rank in message.rerank.ranking)
    return results.RerankReply(ranking=ranking, **_common(message))


def score_reply(message: pb.InferResponse) -> results.ScoreReply:
    """Return a scoring's reply."""
    scores = tuple(
        results.Score(logprob=score.logprob, tokens=_logprobs(score.tokens), greedy=score.greedy)
        for score in message.score.scores
    )
    return results.ScoreReply(scores=scores, **_common(message))


def tokenize_reply(message: pb.TokenizeResponse) -> results.TokenizeReply:
    """Return a tokenisation's reply."""
    return results.TokenizeReply(token_ids=tuple(message.token_ids), tokens=tuple(message.tokens))


def model(message: pb.GetModelResponse) -> results.Model:
    """Return what a model is and can do; tasks that a newer gateway names are left out."""
    info = message.model
    return results.Model(
        name=info.name,
        architecture=info.architecture,
        tasks=tuple(Task(task) for task in info.tasks if task in _TASKS),
        max_length=info.max_length,
        vocabulary_size=info.vocabulary_size,
        hidden_size=info.hidden_size,
        num_layers=info.num_layers,
        labels=tuple(info.labels),
        default_pooling=Pooling(info.default_pooling) if info.default_pooling else None,
        default_normalize=info.default_normalize,
        dtype=info.dtype,
        num_groups=message.num_groups,
        has_chat_template=message.has_chat_template,
    )


def _common(message: pb.InferResponse) -> dict[str, Any]:
    return {"request_id": message.request_id, "model": message.model, **_account(message)}


def _account(message: pb.InferResponse | pb.GenerateSummary) -> dict[str, Any]:
    usage, timings, placement = message.usage, message.timings, message.placement
    return {
        "usage": results.Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
        ),
        "timings": results.Timings(
            queue_ns=timings.queue_ns,
            prefill_ns=timings.prefill_ns,
            decode_ns=timings.decode_ns,
            total_ns=timings.total_ns,
            compute_ns=timings.compute_ns,
            exposed_communication_ns=timings.exposed_communication_ns,
            depth=timings.depth,
            saved_prefill_ns=timings.saved_prefill_ns,
        ),
        "placement": results.Placement(
            group=placement.group, epoch=placement.epoch, worker_ids=tuple(placement.worker_ids)
        ),
    }


def _started(message: pb.GenerateStarted) -> results.Started:
    return results.Started(
        request_id=message.request_id,
        model=message.model,
        num_prompt_tokens=message.num_prompt_tokens,
        seed=message.seed if message.HasField("seed") else None,
        prompt_logprobs=_logprobs(message.prompt_logprobs),
    )


def _delta(message: pb.GenerateDelta) -> results.Delta:
    return results.Delta(
        index=message.index,
        text=message.text,
        token_ids=tuple(message.token_ids),
        logprobs=_logprobs(message.logprobs),
    )


def _finished(message: pb.GenerateFinished) -> results.Finished:
    return results.Finished(
        index=message.index,
        reason=FinishReason(message.reason),
        stop=message.stop,
        num_tokens=message.num_tokens,
        logprob=message.logprob if message.HasField("logprob") else None,
    )


def _logprobs(messages: Iterable[types_pb2.TokenLogprob]) -> tuple[Logprob, ...]:
    return tuple(
        Logprob(
            token_id=item.token_id,
            logprob=item.logprob,
            top_token_ids=tuple(item.top_token_ids),
            top_logprobs=tuple(item.top_logprobs),
        )
        for item in messages
    )
