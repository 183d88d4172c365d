"""What ranks computed to what clients asked: probabilities, rankings, sums. Pure."""

import math
from collections.abc import Sequence

from gateway.model import Model
from gateway.requests import ClassifyByLabels, Rerank
from gateway.work import EncodeItem, ItemOutput
from liger.client.results import Classification, Rank, Score
from liger.errors import LigerError


def classifications(
    outputs: Sequence[ItemOutput], num_tokens: Sequence[int], model: Model, *, raw: bool
) -> tuple[tuple[Classification, ...], tuple[str, ...]]:
    """Return each input's labels, and the labels' names.

    Raises:
        LigerError: The ranks gave inputs of different or no classes.
    """
    num_classes = len(outputs[0].values)
    if num_classes == 0 or any(len(output.values) != num_classes for output in outputs):
        raise LigerError("the ranks gave inputs of different or no classes")
    labels = model.labels
    if len(labels) != num_classes:
        labels = tuple(f"LABEL_{index}" for index in range(num_classes))
    independent = model.multi_label or num_classes == 1
    return tuple(
        Classification(
            label=labels[max(range(num_classes), key=output.values.__getitem__)],
            scores=output.values if raw else probabilities(output.values, independent=independent),
            num_tokens=count,
        )
        for output, count in zip(outputs, num_tokens, strict=True)
    ), labels


def likeliest_labels(
    outputs: Sequence[ItemOutput], items: Sequence[EncodeItem], task: ClassifyByLabels
) -> tuple[Classification, ...]:
    """Return each input's labels by their likelihood, of outputs in the order of `gateway.inputs.label_items`.

    Raises:
        LigerError: The ranks did not give one likelihood for each token of a label.
    """
    if any(len(out.logprobs) != len(it.token_ids) - it.score_from for out, it in zip(outputs, items, strict=True)):
        raise LigerError("the ranks did not give one likelihood for each token of a label")
    sums = [math.fsum(item.logprob for item in output.logprobs) for output in outputs]
    width = len(task.labels)
    found = []
    for start in range(0, len(sums), width):
        logprobs = tuple(sums[start : start + width])
        scores = logprobs if task.raw else probabilities(logprobs, independent=False)
        label = task.labels[logprobs.index(max(logprobs))]
        found.append(Classification(label=label, scores=scores, num_tokens=items[start].score_from))
    return tuple(found)


def ranking(outputs: Sequence[ItemOutput], task: Rerank) -> tuple[Rank, ...]:
    """Return documents, most relevant first; equal ones in the request's order.

    Raises:
        LigerError: The ranks did not give one number a document.
    """
    if any(len(output.values) != 1 for output in outputs):
        raise LigerError("the ranks did not give one number a document")
    logits = [output.values[0] for output in outputs]
    order = sorted(range(len(logits)), key=lambda index: -logits[index])
    return tuple(
        Rank(index=index, score=logits[index] if task.raw else sigmoid(logits[index])) for index in order[: task.top_n]
    )


def score(output: ItemOutput) -> Score:
    """Return a continuation's likelihood."""
    likeliest = [item.top_token_ids[:1] == (item.token_id,) for item in output.logprobs]
    return Score(
        logprob=math.fsum(item.logprob for item in output.logprobs), tokens=output.logprobs, greedy=all(likeliest)
    )


def probabilities(logits: Sequence[float], *, independent: bool) -> tuple[float, ...]:
    """Return softmax of logits, or each one's sigmoid where labels are independent."""
    if independent:
        return tuple(map(sigmoid, logits))
    largest = max(logits)
    weights = [math.exp(logit - largest) for logit in logits]
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


def sigmoid(logit: float) -> float:
    """Return 1 / (1 + exp(-logit)), without overflow."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    growth = math.exp(logit)
    return growth / (1.0 + growth)
