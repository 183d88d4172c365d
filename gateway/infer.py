"""Infer: many inputs in, one reply out."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gateway import answers
from gateway.assets import Assets, AssetStore
from gateway.controller_link import ControllerLink
from gateway.inbox import InferInbox
from gateway.inputs import label_items, pair_items, score_items, single_items
from gateway.requests import Classify, ClassifyByLabels, Embed, Inference, Rerank, Score
from gateway.work import CallContext, EncodeHead, EncodeItem, EncodeWork, ItemOutput, ScoreHead, Submission
from liger.client.results import ClassifyReply, EmbedReply, RerankReply, ScoreReply
from liger.domain import ClassifyOutput, PoolOutput, Task

Reply = EmbedReply | ClassifyReply | RerankReply | ScoreReply


class Inferrer:
    """Runs discriminative requests.

    Args:
        link: Where work goes.
        assets: The models' tokenizers.
        clock_ns: The clock of CallContext.started_ns.
    """

    def __init__(
        self, link: ControllerLink, assets: AssetStore, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._link = link
        self._assets = assets
        self._clock_ns = clock_ns

    async def run(self, inference: Inference, call: CallContext) -> Reply:
        """Return the reply, once every input was computed.

        Raises:
            LigerError: It cannot be done, or failed.
        """
        items = await _items(inference, await self._assets.get(inference.model))
        inbox = InferInbox(len(items))
        submission = Submission(
            request_id=call.request_id,
            model=inference.model.name,
            task=_kind(inference),
            priority=inference.priority,
            timeout_s=call.time_left_s(self._clock_ns()),
            trace_context=call.trace_context,
            work=EncodeWork(items=items, head=_head(inference)),
        )
        with self._link.request(submission, inbox):
            outputs, done = await inbox.result()
        common = {"request_id": call.request_id, "model": inference.model.name, "usage": done.usage}
        timings = replace(done.timings, total_ns=self._clock_ns() - call.started_ns)
        return _reply(inference, items, outputs, {**common, "timings": timings, "placement": done.placement})


async def _items(inference: Inference, assets: Assets) -> list[EncodeItem]:
    model, truncate = inference.model, inference.truncate
    match inference.task:
        case Embed(inputs=inputs):
            return await single_items(inputs, model, assets, "embed.inputs", truncate=truncate)
        case Classify(inputs=inputs, pairs=pairs):
            if pairs:
                return await pair_items(pairs, model, assets, "classify.inputs", truncate=truncate)
            return await single_items(inputs, model, assets, "classify.inputs", truncate=truncate)
        case ClassifyByLabels(inputs=inputs, labels=labels):
            return await label_items(inputs, labels, model, assets, truncate=truncate)
        case Rerank(pairs=pairs):
            return await pair_items(pairs, model, assets, "rerank.documents", truncate=truncate)
        case Score(items=items):
            return await score_items(items, model, assets, "score.items")


def _kind(inference: Inference) -> Task:
    match inference.task:
        case Embed():
            return Task.EMBED
        case Classify() | ClassifyByLabels():
            return Task.CLASSIFY
        case Rerank():
            return Task.RERANK
        case Score():
            return Task.SCORE


def _head(inference: Inference) -> EncodeHead:
    match inference.task:
        case Embed() as task:
            return PoolOutput(pooling=task.pooling, normalize=task.normalize, dimensions=task.dimensions)
        case Classify() | Rerank():
            return ClassifyOutput()
        case ClassifyByLabels() | Score():
            return ScoreHead()


def _reply(inference: Inference, items: list[EncodeItem], outputs: list[ItemOutput], common: dict[str, Any]) -> Reply:
    num_tokens = tuple(len(item.token_ids) for item in items)
    match inference.task:
        case Embed():
            return EmbedReply(embeddings=tuple(output.values for output in outputs), num_tokens=num_tokens, **common)
        case Classify(raw=raw):
            found, labels = answers.classifications(outputs, num_tokens, inference.model, raw=raw)
            return ClassifyReply(classifications=found, labels=labels, **common)
        case ClassifyByLabels(labels=labels) as task:
            found = answers.likeliest_labels(outputs, items, task)
            return ClassifyReply(classifications=found, labels=labels, **common)
        case Rerank() as task:
            return RerankReply(ranking=answers.ranking(outputs, task), **common)
        case Score():
            return ScoreReply(scores=tuple(map(answers.score, outputs)), **common)
