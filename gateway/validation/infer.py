"""Infer requests."""

from collections.abc import Sequence
from typing import Final

from gateway.model import Model
from gateway.requests import Classify, ClassifyByLabels, Content, Embed, Inference, InferTask, Rerank, Score
from gateway.sizes import check_call_tokens
from gateway.validation import values
from liger.domain import Pooling, Task
from liger.errors import InvalidRequestError, UnsupportedTaskError
from liger.rpc.server import MAX_MESSAGE_BYTES
from liger.v1 import inference_pb2 as pb
from liger.v1 import types_pb2

FLOAT_BYTES: Final = 4
FEWEST_LABELS: Final = 2


def to_inference(request: pb.InferRequest, model: Model, max_inputs: int) -> Inference:
    """Return what an Infer request asks for.

    Raises:
        InvalidRequestError: A value can never be right.
        UnsupportedTaskError: The model does not do this task.
    """
    return Inference(
        model=model,
        priority=values.priority(request),
        truncate=request.truncate,
        task=_task(request, model, max_inputs),
    )


def _task(request: pb.InferRequest, model: Model, max_inputs: int) -> InferTask:
    match request.WhichOneof("task"):
        case "embed":
            return _embed(request.embed, model, max_inputs)
        case "classify":
            return _classify(request.classify, model, max_inputs)
        case "rerank":
            return _rerank(request.rerank, model, max_inputs)
        case "score":
            return _score(request, model, max_inputs)
        case _:
            raise InvalidRequestError("there is no task; set embed, classify, rerank or score", field="task")


def _embed(task: pb.EmbedTask, model: Model, max_inputs: int) -> Embed:
    values.can_do(model, Task.EMBED)
    inputs = _contents(task.inputs, model, "embed.inputs", 1, max_inputs)
    dimensions = 0
    if task.HasField("dimensions"):
        dimensions = values.whole(task.dimensions, "embed.dimensions", 1, model.hidden_size)
    most = MAX_MESSAGE_BYTES // (FLOAT_BYTES * (dimensions or model.hidden_size) + 64)
    values.count(len(inputs), "embed.inputs", 1, most)  # or the reply would not fit a message
    if task.pooling not in types_pb2.Pooling.values():
        raise InvalidRequestError(f"embed.pooling {task.pooling} is unknown", field="embed.pooling")
    return Embed(
        inputs=inputs,
        pooling=Pooling(task.pooling) if task.pooling else model.default_pooling,
        normalize=task.normalize if task.HasField("normalize") else model.default_normalize,
        dimensions=dimensions,
    )


def _classify(task: pb.ClassifyTask, model: Model, max_inputs: int) -> Classify | ClassifyByLabels:
    if task.labels:
        return _classify_by_labels(task, model, max_inputs)
    if Task.CLASSIFY not in model.tasks and Task.SCORE in model.tasks:
        raise UnsupportedTaskError(
            f"model {model.name!r} has no classification head; name the labels to choose from", field="classify.labels"
        )
    values.can_do(model, Task.CLASSIFY)
    inputs = _contents(task.inputs, model, "classify.inputs", 1, max_inputs)
    if not task.pairs:
        return Classify(inputs=inputs, pairs=(), raw=task.raw)
    if len(task.pairs) != len(inputs):
        raise InvalidRequestError(
            f"classify.pairs has {len(task.pairs)} entries and classify.inputs {len(inputs)}; give as many, or none",
            field="classify.pairs",
        )
    seconds = _contents(task.pairs, model, "classify.pairs", 1, max_inputs)
    pairs = zip(_texts(inputs, "classify.inputs"), _texts(seconds, "classify.pairs"), strict=True)
    return Classify(inputs=(), pairs=tuple(pairs), raw=task.raw)


def _classify_by_labels(task: pb.ClassifyTask, model: Model, max_inputs: int) -> ClassifyByLabels:
    if Task.CLASSIFY in model.tasks:
        raise InvalidRequestError(
            f"model {model.name!r} has a classification head with labels of its own; leave classify.labels out",
            field="classify.labels",
        )
    values.can_do(model, Task.SCORE)
    if task.pairs:
        raise InvalidRequestError(
            "classify.pairs cannot go with classify.labels; write each pair as one input", field="classify.pairs"
        )
    labels = tuple(task.labels)
    values.count(len(labels), "classify.labels", FEWEST_LABELS, max_inputs)
    for index, label in enumerate(labels):
        values.text(label, f"classify.labels[{index}]")
    if len(set(labels)) < len(labels):
        twice = next(label for index, label in enumerate(labels) if label in labels[:index])
        raise InvalidRequestError(f"classify.labels holds {twice!r} twice; name each once", field="classify.labels")
    inputs = _contents(task.inputs, model, "classify.inputs", 1, max_inputs)
    if len(inputs) * len(labels) > max_inputs:
        raise InvalidRequestError(
            f"{len(inputs)} classify.inputs with {len(labels)} classify.labels make {len(inputs) * len(labels)} "
            f"likelihoods, and a call takes {max_inputs}; split it",
            field="classify.inputs",
        )
    return ClassifyByLabels(inputs=inputs, labels=labels, raw=task.raw)


def _rerank(task: pb.RerankTask, model: Model, max_inputs: int) -> Rerank:
    values.can_do(model, Task.RERANK)
    query = values.content(task.query, model, "rerank.query")
    documents = _contents(task.documents, model, "rerank.documents", 1, max_inputs)
    [query_text] = _texts([query], "rerank.query")
    top_n = len(documents)
    if task.HasField("top_n"):
        top_n = values.whole(task.top_n, "rerank.top_n", 1, 2**32 - 1)
    pairs = tuple((query_text, document) for document in _texts(documents, "rerank.documents"))
    return Rerank(pairs=pairs, top_n=top_n, raw=task.raw)


def _score(request: pb.InferRequest, model: Model, max_inputs: int) -> Score:
    values.can_do(model, Task.SCORE)
    if request.truncate:
        raise InvalidRequestError(
            "score cuts nothing, as that would change its meaning; leave it unset", field="truncate"
        )
    items = request.score.items
    values.count(len(items), "score.items", 1, max_inputs)
    given = sum(len(item.context.token_ids.ids) + len(item.continuation.token_ids.ids) for item in items)
    check_call_tokens(given, "score.items")
    return Score(
        items=tuple(
            (
                values.content(item.context, model, f"score.items[{index}].context", may_be_empty=True),
                values.content(item.continuation, model, f"score.items[{index}].continuation"),
            )
            for index, item in enumerate(items)
        )
    )


def _contents(messages: Sequence[pb.Input], model: Model, field: str, fewest: int, most: int) -> tuple[Content, ...]:
    values.count(len(messages), field, fewest, most)
    check_call_tokens(sum(len(message.token_ids.ids) for message in messages), field)
    return tuple(values.content(message, model, f"{field}[{index}]") for index, message in enumerate(messages))


def _texts(contents: Sequence[Content], field: str) -> tuple[str, ...]:
    texts = tuple(content for content in contents if isinstance(content, str))
    if len(texts) < len(contents):
        raise InvalidRequestError(
            f"{field} holds token ids, but two texts are joined by the model's own rule; give text, or classify the "
            "ids of the whole pair as one input",
            field=field,
        )
    return texts
