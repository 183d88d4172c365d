"""The client for asyncio: the same calls as `liger.client.sync`, awaited."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
import grpc.aio

from liger.client import replies, requests, results
from liger.client.failures import meaning
from liger.client.record import GenerateRecord
from liger.client.requests import DEFAULT_TIMEOUT_S, CallOptions, GenerateOptions, Messages, Prompt, Text
from liger.domain import Pooling
from liger.errors import RequestCancelledError
from liger.rpc.channel import open_channel
from liger.v1 import inference_pb2 as pb
from liger.v1.inference_pb2_grpc import InferenceServiceStub


class AsyncClient:
    """Calls a gateway at host:port; belongs to one event loop. Every method raises `liger.errors`.

    Args:
        address: host:port of the gateway.
        timeout_s: Deadline of calls that are given none.
    """

    def __init__(self, address: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._channel = open_channel(address)
        self._stub = InferenceServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._channel.close()

    def generate(self, model: str, prompt: Prompt, **options: Unpack[GenerateOptions]) -> "AsyncGenerateStream":
        """Continue a prompt: text, a conversation (Message or mappings), or token ids."""
        request = requests.generate_request(model, prompt, options)
        call = self._stub.Generate(request, timeout=self._limit(options.get("timeout_s")))
        return AsyncGenerateStream(call, self._address)

    async def embed(
        self,
        model: str,
        inputs: str | Sequence[Text],
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        dimensions: int | None = None,
        **options: Unpack[CallOptions],
    ) -> results.EmbedReply:
        """Make one vector of each input."""
        request = requests.embed_request(
            model, inputs, options, pooling=pooling, normalize=normalize, dimensions=dimensions
        )
        return replies.embed_reply(await self._infer(request, options))

    async def classify(
        self,
        model: str,
        inputs: str | Sequence[Text],
        *,
        pairs: str | Sequence[Text] = (),
        labels: Sequence[str] = (),
        raw: bool | None = None,
        **options: Unpack[CallOptions],
    ) -> results.ClassifyReply:
        """Give each input (or pair of texts) a probability for each label."""
        request = requests.classify_request(model, inputs, options, pairs=pairs, labels=labels, raw=raw)
        return replies.classify_reply(await self._infer(request, options))

    async def rerank(
        self,
        model: str,
        query: Text,
        documents: str | Sequence[Text],
        *,
        top_n: int | None = None,
        raw: bool | None = None,
        **options: Unpack[CallOptions],
    ) -> results.RerankReply:
        """Order documents by their relevance to a query."""
        request = requests.rerank_request(model, query, documents, options, top_n=top_n, raw=raw)
        return replies.rerank_reply(await self._infer(request, options))

    async def score(
        self, model: str, items: Sequence[tuple[Text, Text]], **options: Unpack[CallOptions]
    ) -> results.ScoreReply:
        """Give the log-likelihood of each (context, continuation)'s continuation."""
        return replies.score_reply(await self._infer(requests.score_request(model, items, options), options))

    async def tokenize(
        self,
        model: str,
        content: str | Messages,
        *,
        add_special_tokens: bool | None = None,
        timeout_s: float | None = None,
    ) -> results.TokenizeReply:
        """Turn text or a conversation into token ids."""
        request = requests.tokenize_request(model, content, add_special_tokens)
        return replies.tokenize_reply(await self._call(self._stub.Tokenize, request, timeout_s))

    async def get_model(self, name: str, *, timeout_s: float | None = None) -> results.Model:
        """Describe one model."""
        return replies.model(await self._call(self._stub.GetModel, pb.GetModelRequest(model=name), timeout_s))

    async def list_models(self, *, timeout_s: float | None = None) -> list[results.Model]:
        """Describe all models, by name."""
        reply = await self._call(self._stub.ListModels, pb.ListModelsRequest(), timeout_s)
        return [replies.model(message) for message in reply.models]

    def _limit(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s

    async def _infer(self, request: pb.InferRequest, options: CallOptions) -> pb.InferResponse:
        reply: pb.InferResponse = await self._call(self._stub.Infer, request, options.get("timeout_s"))
        return reply

    async def _call(self, method: Callable[..., Any], request: object, timeout_s: float | None) -> Any:
        try:
            return await method(request, timeout=self._limit(timeout_s))
        except grpc.RpcError as error:
            raise meaning(error, self._address) from error
        except asyncio.CancelledError as error:
            raise _cancelled(error) from None


class AsyncGenerateStream(GenerateRecord):
    """A generation under way: iterate it for text, or `events()` for everything (needed for n > 1).

    After the end, `started`, `finished` (by sample), `usage`, `timings` and `placement` are set. `close()`, or leaving
    a `with` block, cancels what is left.
    """

    def __init__(self, call: Any, address: str) -> None:
        super().__init__()
        self._call = call
        self._address = address

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel the generation if it has not ended."""
        self._call.cancel()

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield the text of the first sample as it comes."""
        async for event in self.events():
            if isinstance(event, results.Delta) and event.index == 0 and event.text:
                yield event.text

    async def text(self) -> str:
        """Wait for the end and return the whole text of the first sample."""
        return "".join([piece async for piece in self])

    async def events(self) -> AsyncIterator[results.GenerateEvent]:
        """Yield `Started`, `Delta` and `Finished` of each sample, and `Summary`, as they come."""
        try:
            async for message in self._call:
                if (event := replies.event(message)) is not None:
                    self.note(event)
                    yield event
        except grpc.RpcError as error:
            raise meaning(error, self._address) from error
        except asyncio.CancelledError as error:
            raise _cancelled(error) from None
        finally:
            self._call.cancel()


def _cancelled(error: asyncio.CancelledError) -> BaseException:
    """Return what an ended await means: gRPC raises CancelledError also where the call, not the task, was cancelled."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return error
    return RequestCancelledError("the call was closed by this client")
