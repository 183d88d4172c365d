"""The client for plain code: every call blocks."""

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from liger.client import replies, requests, results
from liger.client.failures import meaning
from liger.client.record import GenerateRecord
from liger.client.requests import DEFAULT_TIMEOUT_S, CallOptions, GenerateOptions, Messages, Prompt, Text
from liger.domain import Pooling
from liger.rpc.channel import CHANNEL_OPTIONS
from liger.v1 import inference_pb2 as pb
from liger.v1.inference_pb2_grpc import InferenceServiceStub


class Client:
    """Calls a gateway at host:port; may be shared by threads. Every method raises `liger.errors`.

    Args:
        address: host:port of the gateway.
        timeout_s: Deadline of calls that are given none.
    """

    def __init__(self, address: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._stub = InferenceServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._channel.close()

    def generate(self, model: str, prompt: Prompt, **options: Unpack[GenerateOptions]) -> "GenerateStream":
        """Continue a prompt: text, a conversation (Message or mappings), or token ids."""
        request = requests.generate_request(model, prompt, options)
        call = self._stub.Generate(request, timeout=self._limit(options.get("timeout_s")))
        return GenerateStream(call, self._address)

    def embed(
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
        return replies.embed_reply(self._infer(request, options))

    def classify(
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
        return replies.classify_reply(self._infer(request, options))

    def rerank(
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
        return replies.rerank_reply(self._infer(request, options))

    def score(
        self, model: str, items: Sequence[tuple[Text, Text]], **options: Unpack[CallOptions]
    ) -> results.ScoreReply:
        """Give the log-likelihood of each (context, continuation)'s continuation."""
        return replies.score_reply(self._infer(requests.score_request(model, items, options), options))

    def tokenize(
        self,
        model: str,
        content: str | Messages,
        *,
        add_special_tokens: bool | None = None,
        timeout_s: float | None = None,
    ) -> results.TokenizeReply:
        """Turn text or a conversation into token ids."""
        request = requests.tokenize_request(model, content, add_special_tokens)
        return replies.tokenize_reply(self._call(self._stub.Tokenize, request, timeout_s))

    def get_model(self, name: str, *, timeout_s: float | None = None) -> results.Model:
        """Describe one model."""
        return replies.model(self._call(self._stub.GetModel, pb.GetModelRequest(model=name), timeout_s))

    def list_models(self, *, timeout_s: float | None = None) -> list[results.Model]:
        """Describe all models, by name."""
        reply = self._call(self._stub.ListModels, pb.ListModelsRequest(), timeout_s)
        return [replies.model(message) for message in reply.models]

    def _limit(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s

    def _infer(self, request: pb.InferRequest, options: CallOptions) -> pb.InferResponse:
        reply: pb.InferResponse = self._call(self._stub.Infer, request, options.get("timeout_s"))
        return reply

    def _call(self, method: Callable[..., Any], request: object, timeout_s: float | None) -> Any:
        try:
            return method(request, timeout=self._limit(timeout_s))
        except grpc.RpcError as error:
            raise meaning(error, self._address) from error


class GenerateStream(GenerateRecord):
    """A generation under way: iterate it for text, or `events()` for everything (needed for n > 1).

    After the end, `started`, `finished` (by sample), `usage`, `timings` and `placement` are set. `close()`, or leaving
    a `with` block, cancels what is left.
    """

    def __init__(self, call: Any, address: str) -> None:
        super().__init__()
        self._call = call
        self._address = address

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the generation if it has not ended."""
        self._call.cancel()

    def __iter__(self) -> Iterator[str]:
        """Yield the text of the first sample as it comes."""
        for event in self.events():
            if isinstance(event, results.Delta) and event.index == 0 and event.text:
                yield event.text

    def text(self) -> str:
        """Wait for the end and return the whole text of the first sample."""
        return "".join(self)

    def events(self) -> Iterator[results.GenerateEvent]:
        """Yield `Started`, `Delta` and `Finished` of each sample, and `Summary`, as they come."""
        try:
            for message in self._call:
                if (event := replies.event(message)) is not None:
                    self.note(event)
                    yield event
        except grpc.RpcError as error:
            raise meaning(error, self._address) from error
        finally:
            self._call.cancel()
