"""The client against a service that answers by script: results typed, errors as `liger.errors`, streams closed."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from liger.client import AsyncClient, Client, Delta, Finished, Message, Started, Summary
from liger.domain import FinishReason, Pooling, Task
from liger.errors import DeadlineError, InputTooLongError, LigerError, RequestCancelledError, UnavailableError
from liger.rpc.status import to_status
from liger.schedule import Logprob
from liger.v1 import inference_pb2 as pb
from liger.v1 import types_pb2
from liger.v1.inference_pb2_grpc import InferenceServiceServicer, add_InferenceServiceServicer_to_server

ACCOUNT: dict[str, Any] = {
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1},
    "timings": {"queue_ns": 1, "prefill_ns": 2, "decode_ns": 3, "total_ns": 9, "compute_ns": 4, "depth": 1},
    "placement": {"group": "g", "epoch": 5, "worker_ids": ["w0", "w1"]},
}
LOGPROB = {"token_id": 7, "logprob": -0.5, "top_token_ids": [7, 8], "top_logprobs": [-0.5, -1.5]}


class Scripted(InferenceServiceServicer):
    """Answers by what the prompt or the request id says."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.ended: list[threading.Event] = []  # one a generation

    def Generate(self, request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:  # noqa: N802
        self.requests.append(request)
        ended = threading.Event()
        self.ended.append(ended)
        context.add_callback(ended.set)
        started = {
            "request_id": "r",
            "model": request.model,
            "num_prompt_tokens": 3,
            "seed": 11,
            "prompt_logprobs": [LOGPROB],
        }
        yield pb.GenerateResponse(started=started)
        yield pb.GenerateResponse(delta={"index": 0, "text": "He", "token_ids": [7], "logprobs": [LOGPROB]})
        yield pb.GenerateResponse(delta={"index": 1, "text": "other"})
        yield pb.GenerateResponse()  # an event that a newer gateway may send
        if request.text == "fail":
            self._fail(context)
        if request.text == "hang":
            ended.wait(20)
            return
        yield pb.GenerateResponse(delta={"index": 0, "text": "", "token_ids": [8]})
        yield pb.GenerateResponse(delta={"index": 0, "text": "llo", "token_ids": [9]})
        yield pb.GenerateResponse(finished={"index": 1, "reason": 2, "num_tokens": 1})
        yield pb.GenerateResponse(finished={"index": 0, "reason": 4, "stop": "</s>", "num_tokens": 3, "logprob": -1.5})
        yield pb.GenerateResponse(summary=ACCOUNT)

    def Infer(self, request: pb.InferRequest, context: grpc.ServicerContext) -> pb.InferResponse:  # noqa: N802
        self.requests.append(request)
        if request.request_id == "fail":
            self._fail(context)
        results = {
            "embed": {"embeddings": [{"values": [0.5, 1.5], "num_tokens": 4}]},
            "classify": {"classifications": [{"label": "x", "scores": [0.25], "num_tokens": 5}], "labels": ["x"]},
            "rerank": {"ranking": [{"index": 2, "score": 0.75}]},
            "score": {"scores": [{"logprob": -1.5, "tokens": [LOGPROB], "greedy": True}]},
        }
        task = request.WhichOneof("task")
        return pb.InferResponse(request_id="r", model=request.model, **{task: results[task]}, **ACCOUNT)

    def Tokenize(self, request: pb.TokenizeRequest, context: grpc.ServicerContext) -> pb.TokenizeResponse:  # noqa: N802
        self.requests.append(request)
        return pb.TokenizeResponse(token_ids=[1, 2], tokens=["a", "b"])

    def GetModel(self, request: pb.GetModelRequest, context: grpc.ServicerContext) -> pb.GetModelResponse:  # noqa: N802
        info = types_pb2.ModelInfo(name=request.model, tasks=[1, 2, 99], max_length=64, labels=["x"], default_pooling=2)
        return pb.GetModelResponse(model=info, num_groups=2, has_chat_template=True)

    def ListModels(self, request: pb.ListModelsRequest, context: grpc.ServicerContext) -> pb.ListModelsResponse:  # noqa: N802
        return pb.ListModelsResponse(models=[self.GetModel(pb.GetModelRequest(model=name), context) for name in "ab"])

    def _fail(self, context: grpc.ServicerContext) -> None:
        error = InputTooLongError("9 tokens, 8 fit", field="text", retry_after_s=1.5)
        context.abort_with_status(rpc_status.to_status(to_status(error)))


@pytest.fixture
def service() -> Iterator[tuple[Scripted, str]]:
    """A scripted service and its address."""
    servicer = Scripted()
    server = grpc.server(ThreadPoolExecutor(4))
    add_InferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture
def client(service: tuple[Scripted, str]) -> Iterator[Client]:
    """A plain client."""
    with Client(service[1], timeout_s=20) as made:
        yield made


@pytest.fixture
async def async_client(service: tuple[Scripted, str]) -> AsyncIterator[AsyncClient]:
    """An asyncio client."""
    async with AsyncClient(service[1], timeout_s=20) as made:
        yield made


def test_iterating_a_generation_gives_the_first_samples_text(client: Client) -> None:
    stream = client.generate("m", [Message("user", "Hi")])
    assert list(stream) == ["He", "llo"]
    assert [finished.reason for finished in stream.finished] == [FinishReason.GRAMMAR, FinishReason.LENGTH]
    assert stream.finished[0].stop == "</s>"
    assert [finished.logprob for finished in stream.finished] == [-1.5, None]
    assert stream.started
    assert (stream.started.seed, stream.started.num_prompt_tokens) == (11, 3)
    assert [item.token_id for item in stream.started.prompt_logprobs] == [7]
    assert stream.usage
    assert stream.usage.completion_tokens == 2
    assert stream.timings
    assert stream.timings.total_ns == 9
    assert stream.placement
    assert stream.placement.worker_ids == ("w0", "w1")


def test_events_give_everything_that_is_known(client: Client) -> None:
    events = list(client.generate("m", "x").events())
    assert [type(event) for event in events] == [Started, Delta, Delta, Delta, Delta, Finished, Finished, Summary]
    assert events[1] == Delta(
        index=0,
        text="He",
        token_ids=(7,),
        logprobs=(Logprob(token_id=7, logprob=-0.5, top_token_ids=(7, 8), top_logprobs=(-0.5, -1.5)),),
    )


def test_text_waits_for_the_whole(client: Client) -> None:
    assert client.generate("m", "x").text() == "Hello"


def test_an_error_amid_a_stream_is_a_liger_error(client: Client) -> None:
    pieces = iter(client.generate("m", "fail"))
    assert next(pieces) == "He"
    with pytest.raises(InputTooLongError, match="9 tokens, 8 fit") as caught:
        next(pieces)
    assert (caught.value.field, caught.value.retry_after_s) == ("text", 1.5)


def test_leaving_a_stream_cancels_it(client: Client, service: tuple[Scripted, str]) -> None:
    with client.generate("m", "hang") as stream:
        assert next(iter(stream)) == "He"
    assert service[0].ended[-1].wait(20)


def test_a_deadline_of_one_call_goes_before_the_clients(client: Client) -> None:
    with pytest.raises(DeadlineError):
        client.generate("m", "hang", timeout_s=0.2).text()


def test_discriminative_replies_are_typed(client: Client) -> None:
    embedded = client.embed("m", "a")
    assert (embedded.embeddings, embedded.num_tokens) == (((0.5, 1.5),), (4,))
    assert (embedded.request_id, embedded.usage.cached_tokens, embedded.placement.epoch) == ("r", 1, 5)
    classified = client.classify("m", "a")
    assert (classified.labels, classified.classifications[0].label) == (("x",), "x")
    assert classified.classifications[0].scores == (0.25,)
    [rank] = client.rerank("m", "q", ["a"]).ranking
    assert (rank.index, rank.score) == (2, 0.75)
    [score] = client.score("m", [("a", "b")]).scores
    assert (score.logprob, score.greedy, score.tokens[0].token_id) == (-1.5, True, 7)


def test_models_and_tokens_are_typed(client: Client) -> None:
    assert client.tokenize("m", "a b").tokens == ("a", "b")
    model = client.get_model("m")
    assert (model.name, model.tasks, model.default_pooling) == ("m", (Task.GENERATE, Task.EMBED), Pooling.CLS)
    assert (model.num_groups, model.has_chat_template, model.labels) == (2, True, ("x",))
    assert [model.name for model in client.list_models()] == ["a", "b"]


def test_a_refused_call_raises_what_the_gateway_raised(client: Client) -> None:
    with pytest.raises(InputTooLongError, match="9 tokens, 8 fit") as caught:
        client.embed("m", "a", request_id="fail")
    assert caught.value.field == "text"


def test_a_gateway_that_is_not_there_is_named_with_its_address() -> None:
    with (
        Client("127.0.0.1:9", timeout_s=20) as client,
        pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9: it does not run"),
    ):
        client.list_models()


def test_a_client_may_be_shared_by_threads(client: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda _: client.generate("m", "x").text(), range(16)))
    assert texts == ["Hello"] * 16


def test_a_closed_client_cancels_what_is_under_way(service: tuple[Scripted, str]) -> None:
    client = Client(service[1], timeout_s=20)
    pieces = iter(client.generate("m", "hang"))
    next(pieces)
    client.close()
    with pytest.raises(RequestCancelledError):
        next(pieces)


async def test_the_async_client_gives_the_same(async_client: AsyncClient, client: Client) -> None:
    stream = async_client.generate("m", "x")
    assert [event async for event in stream.events()] == list(client.generate("m", "x").events())
    assert [finished.index for finished in stream.finished] == [0, 1]
    assert await async_client.embed("m", "a") == client.embed("m", "a")
    assert await async_client.classify("m", "a") == client.classify("m", "a")
    assert await async_client.rerank("m", "q", ["a"]) == client.rerank("m", "q", ["a"])
    assert await async_client.score("m", [("a", "b")]) == client.score("m", [("a", "b")])
    assert await async_client.tokenize("m", "a") == client.tokenize("m", "a")
    assert await async_client.get_model("m") == client.get_model("m")
    assert await async_client.list_models() == client.list_models()


async def test_the_async_client_raises_and_cancels_alike(
    async_client: AsyncClient, service: tuple[Scripted, str]
) -> None:
    with pytest.raises(InputTooLongError):
        await async_client.embed("m", "a", request_id="fail")
    with pytest.raises(LigerError, match="9 tokens"):
        await async_client.generate("m", "fail").text()
    with pytest.raises(DeadlineError):
        await async_client.generate("m", "hang", timeout_s=0.2).text()
    async with async_client.generate("m", "hang") as stream:
        assert await anext(aiter(stream)) == "He"
    assert service[0].ended[-1].wait(20)


async def test_iterating_a_closed_stream_ends_with_the_cancel(async_client: AsyncClient) -> None:
    stream = async_client.generate("m", "hang")
    pieces = aiter(stream)
    await anext(pieces)
    await stream.close()
    with pytest.raises(RequestCancelledError):
        await anext(pieces)


async def test_a_cancelled_task_stays_cancelled(async_client: AsyncClient) -> None:
    """What the client makes of closed calls must not swallow a task's own cancel."""
    reading = asyncio.ensure_future(async_client.generate("m", "hang").text())
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
