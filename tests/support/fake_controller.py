"""A controller that plays a script: real gRPC, no ranks. Tests of the gateway and the client stand in front of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from liger.errors import LigerError, ModelNotFoundError
from liger.rpc.server import RpcServer
from liger.rpc.status import to_message
from liger.v1 import controller_pb2, controller_pb2_grpc, types_pb2

__all__ = ["Conversation", "FakeController", "FakeModel"]

STOP = types_pb2.FINISH_REASON_STOP
LENGTH = types_pb2.FINISH_REASON_LENGTH


@dataclass
class FakeModel:
    """A model of the catalogue, and its folder's files."""

    info: types_pb2.ModelInfo
    files: Mapping[str, bytes] = field(default_factory=dict)
    num_groups: int = 1


class Conversation:
    """One gateway's conversation, as a script sees it."""

    def __init__(self, gateway_id: str) -> None:
        self.gateway_id = gateway_id
        self.outgoing: asyncio.Queue[controller_pb2.ConnectResponse | None] = asyncio.Queue()

    def send(self, message: controller_pb2.ConnectResponse) -> None:
        """Queue any message for the gateway."""
        self.outgoing.put_nowait(message)

    def tokens(
        self,
        request_id: str,
        token_ids: list[int],
        *,
        sample: int = 0,
        offset: int = 0,
        reason: types_pb2.FinishReason.ValueType = types_pb2.FINISH_REASON_UNSPECIFIED,
        logprobs: list[types_pb2.TokenLogprob] | None = None,
        prompt_logprobs: list[types_pb2.TokenLogprob] | None = None,
    ) -> None:
        """Send tokens of a sample."""
        message = controller_pb2.SampleTokens(
            request_id=request_id, sample=sample, offset=offset, token_ids=token_ids, finish_reason=reason
        )
        message.logprobs.extend(logprobs or [])
        message.prompt_logprobs.extend(prompt_logprobs or [])
        self.send(controller_pb2.ConnectResponse(tokens=message))

    def output(self, request_id: str, item: int, values: list[float], logprobs: list[Any] | None = None) -> None:
        """Send one input's outputs."""
        message = controller_pb2.EncodeOutput(request_id=request_id, item=item, values=values)
        message.logprobs.extend(logprobs or [])
        self.send(controller_pb2.ConnectResponse(output=message))

    def finish(self, request_id: str, *, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        """Send a request's good end."""
        finished = controller_pb2.RequestFinished(
            request_id=request_id,
            usage=types_pb2.Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens),
            timings=types_pb2.Timings(queue_ns=1, prefill_ns=2, decode_ns=3, compute_ns=4, depth=1),
            placement=types_pb2.Placement(group="fake", epoch=7, worker_ids=["w0", "w1"]),
        )
        self.send(controller_pb2.ConnectResponse(finished=finished))

    def fail(self, request_id: str, error: LigerError) -> None:
        """Send a request's bad end."""
        failed = controller_pb2.RequestFailed(request_id=request_id, error=to_message(error))
        self.send(controller_pb2.ConnectResponse(failed=failed))

    def hang_up(self) -> None:
        """End the conversation."""
        self.outgoing.put_nowait(None)


Script = Callable[[controller_pb2.Submit, Conversation], Awaitable[None]]


class FakeController(controller_pb2_grpc.ControllerServiceServicer):
    """Serves a catalogue and plays `script` for every submitted request.

    The default script answers generations from `continuations` (by prompt; else the prompt again) one token a message,
    and inputs with values that depend on their tokens alone.
    """

    def __init__(self, models: list[FakeModel]) -> None:
        self.models = {model.info.name: model for model in models}
        self.continuations: dict[tuple[int, ...], list[int]] = {}
        self.script: Script = self.play
        self.submits: list[controller_pb2.Submit] = []
        self.cancels: list[controller_pb2.Cancel] = []
        self.taken: dict[tuple[str, int], int] = {}  # tokens acknowledged, by request and sample
        self.conversations: list[Conversation] = []
        self.num_asset_calls = 0
        self.asset_error: LigerError | None = None
        self._news = asyncio.Condition()
        self._scripts: set[asyncio.Task[None]] = set()
        self._server: RpcServer | None = None
        self.address = ""

    async def start(self, address: str = "127.0.0.1:0") -> str:
        """Listen; return host:port."""
        self._server = RpcServer()
        controller_pb2_grpc.add_ControllerServiceServicer_to_server(self, self._server.grpc)
        self.address = self._server.bind(address)
        await self._server.start(["liger.v1.ControllerService"])
        return self.address

    async def stop(self) -> None:
        """Stop at once."""
        for task in self._scripts:
            task.cancel()
        await asyncio.gather(*self._scripts, return_exceptions=True)
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def until(self, condition: Callable[[], Any], limit_s: float = 20.0) -> None:
        """Return when `condition()` holds; it is asked again after each message of a gateway."""
        async with asyncio.timeout(limit_s), self._news:
            await self._news.wait_for(condition)

    def catalogue(self) -> controller_pb2.ConnectResponse:
        """Return the catalogue as it is now."""
        entries = [
            controller_pb2.Catalogue.Entry(model=model.info, num_groups=model.num_groups)
            for model in self.models.values()
        ]
        return controller_pb2.ConnectResponse(catalogue=controller_pb2.Catalogue(entries=entries))

    def tell_catalogue(self) -> None:
        """Send the catalogue to every gateway."""
        for conversation in self.conversations:
            conversation.send(self.catalogue())

    async def Connect(  # noqa: N802 - the name of the RPC
        self, request_iterator: AsyncIterator[controller_pb2.ConnectRequest], context: Any
    ) -> AsyncIterator[controller_pb2.ConnectResponse]:
        first = await anext(aiter(request_iterator))
        conversation = Conversation(first.hello.gateway_id)
        self.conversations.append(conversation)
        reader = asyncio.create_task(self._read(request_iterator, conversation))
        try:
            yield controller_pb2.ConnectResponse(welcome=controller_pb2.GatewayWelcome(leader_term=1))
            yield self.catalogue()
            await self._tell()
            while (message := await conversation.outgoing.get()) is not None:
                yield message
        finally:
            self.conversations.remove(conversation)
            reader.cancel()
            await self._tell()

    async def GetModelAssets(  # noqa: N802 - the name of the RPC
        self, request: controller_pb2.GetModelAssetsRequest, context: Any
    ) -> AsyncIterator[controller_pb2.GetModelAssetsResponse]:
        self.num_asset_calls += 1
        await self._tell()
        if self.asset_error is not None:
            raise self.asset_error
        if request.model not in self.models:
            raise ModelNotFoundError(f"no {request.model}")
        for name, content in self.models[request.model].files.items():
            half = len(content) // 2  # in two parts, as large files come
            for part, last in ((content[:half], False), (content[half:], True)):
                asset = types_pb2.ModelAsset(name=name, content=part, last=last)
                yield controller_pb2.GetModelAssetsResponse(asset=asset)

    async def play(self, submit: controller_pb2.Submit, talk: Conversation) -> None:
        """Answer a request by the default script."""
        if submit.WhichOneof("work") == "generate":
            await self._play_generate(submit, talk)
        else:
            self._play_encode(submit, talk)

    async def _play_generate(self, submit: controller_pb2.Submit, talk: Conversation) -> None:
        work = submit.generate
        prompt = list(work.prompt_token_ids)
        planned = self.continuations.get(tuple(prompt), prompt)[: work.max_tokens]
        total = 0
        for sample in range(work.num_samples):
            for offset, token in enumerate(planned):
                ends = token in work.stop_token_ids
                reason = STOP if ends else LENGTH if offset == len(planned) - 1 else 0
                logprobs = [_logprob(token, work.logprobs)] if work.HasField("logprobs") else None
                asked = work.HasField("prompt_logprobs") and sample == offset == 0
                of_prompt = [_logprob(read, work.prompt_logprobs) for read in prompt[1:]] if asked else None
                talk.tokens(
                    submit.request_id,
                    [token],
                    sample=sample,
                    offset=offset,
                    reason=reason,
                    logprobs=logprobs,
                    prompt_logprobs=of_prompt,
                )
                total += 1
                await asyncio.sleep(0)  # lets other scripts and the gateway in between
                if ends:
                    break
        talk.finish(submit.request_id, prompt_tokens=len(prompt), completion_tokens=total)

    def _play_encode(self, submit: controller_pb2.Submit, talk: Conversation) -> None:
        head = submit.encode.head.WhichOneof("kind")
        num_tokens = 0
        for index, item in enumerate(submit.encode.items):
            ids = list(item.token_ids)
            num_tokens += len(ids)
            if head == "score":
                talk.output(submit.request_id, index, [], [_logprob(token, 1) for token in ids[item.score_from :]])
            else:
                talk.output(submit.request_id, index, self.values(submit.model, head, ids))
        talk.finish(submit.request_id, prompt_tokens=num_tokens)

    def values(self, model: str, head: str | None, ids: list[int]) -> list[float]:
        """Return what the fake ranks compute for an input: a function of its tokens alone."""
        if head == "pool":
            return [float(sum(ids)), float(len(ids)), float(ids[0])]
        return [float((sum(ids) + index) % 7) - 3.0 for index in range(max(1, len(self.models[model].info.labels)))]

    async def _read(self, requests: AsyncIterator[controller_pb2.ConnectRequest], talk: Conversation) -> None:
        async for message in requests:
            if message.WhichOneof("message") == "submit":
                self.submits.append(message.submit)
                task = asyncio.create_task(self._run(message.submit, talk))
                self._scripts.add(task)
                task.add_done_callback(self._scripts.discard)
            elif message.WhichOneof("message") == "cancel":
                self.cancels.append(message.cancel)
            elif message.WhichOneof("message") == "acknowledgements":
                for told in message.acknowledgements.of:
                    self.taken[told.request_id, told.sample] = told.num_tokens
            await self._tell()

    async def _run(self, submit: controller_pb2.Submit, talk: Conversation) -> None:
        try:
            await self.script(submit, talk)
        except LigerError as error:
            talk.fail(submit.request_id, error)

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()


def _logprob(token: int, num_top: int) -> types_pb2.TokenLogprob:
    """Return a likelihood of -token/8; even tokens are the likeliest at their place."""
    top = [token if token % 2 == 0 else token + 1, *range(1, num_top)][:num_top]
    return types_pb2.TokenLogprob(
        token_id=token, logprob=-token / 8, top_token_ids=top, top_logprobs=[-0.5 * (i + 1) for i in range(num_top)]
    )
