"""A gateway in this process, real gRPC on both sides, in front of a controller that plays a script."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import settings

from gateway.config import GatewayConfig
from gateway.service import GatewayService
from liger.client import AsyncClient
from liger.rpc.channel import open_channel
from liger.v1 import inference_pb2 as pb
from liger.v1 import types_pb2
from liger.v1.inference_pb2_grpc import InferenceServiceStub
from tests.support.fake_controller import FakeController, FakeModel
from tests.unit.gateway import folders

settings.register_profile("unhurried", deadline=None)  # other work on the machine must not fail a property
settings.load_profile("unhurried")

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def model_info(name: str, *tasks: int, **fields: Any) -> types_pb2.ModelInfo:
    """Return a small model's description."""
    defaults: dict[str, Any] = {
        "architecture": "TestModel",
        "max_length": 64,
        "vocabulary_size": 500,
        "hidden_size": 3,
        "num_layers": 2,
        "default_pooling": types_pb2.POOLING_MEAN,
        "dtype": "float32",
        "fingerprint": f"fingerprint of {name}",
    }
    return types_pb2.ModelInfo(name=name, tasks=tasks, **(defaults | fields))


def all_models() -> list[FakeModel]:
    """Return one model of each kind."""
    byte_level = folders.byte_level()
    eos = byte_level.token_to_id("<|im_end|>")
    chat_files = folders.files(
        byte_level, generation={"eos_token_id": eos}, eos_token="<|im_end|>", chat_template=folders.CHAT_TEMPLATE
    )
    return [
        FakeModel(model_info("chat", types_pb2.TASK_GENERATE, types_pb2.TASK_SCORE, eos_token_ids=[0]), chat_files),
        FakeModel(
            model_info("sentencepiece", types_pb2.TASK_GENERATE, types_pb2.TASK_SCORE, eos_token_ids=[2]),
            folders.files(folders.byte_fallback()),
        ),
        FakeModel(model_info("endless", types_pb2.TASK_GENERATE), folders.files(byte_level)),
        FakeModel(model_info("bare", types_pb2.TASK_GENERATE, types_pb2.TASK_EMBED, types_pb2.TASK_SCORE), {}),
        FakeModel(
            model_info("embedder", types_pb2.TASK_EMBED, num_token_types=2, default_normalize=True, max_length=16),
            folders.files(folders.word_level()),
        ),
        FakeModel(
            model_info(
                "sentiment", types_pb2.TASK_CLASSIFY, num_token_types=2, labels=["bad", "so-so", "good"], max_length=16
            ),
            folders.files(folders.word_level()),
        ),
        FakeModel(
            model_info("ranker", types_pb2.TASK_CLASSIFY, types_pb2.TASK_RERANK, num_token_types=2, max_length=16),
            folders.files(folders.word_level()),
        ),
        FakeModel(model_info("forming", types_pb2.TASK_GENERATE), {}, num_groups=0),
    ]


@dataclass
class Gateway:
    """A gateway, its controller, and ways to call it."""

    controller: FakeController
    service: GatewayService
    channel: grpc.aio.Channel
    client: AsyncClient

    @property
    def address(self) -> str:
        return self.service.address

    @property
    def stub(self) -> Any:
        return InferenceServiceStub(self.channel)

    async def tell_catalogue(self) -> None:
        """Let the controller tell its catalogue; return when the gateway has it."""
        self.controller.tell_catalogue()
        wanted = {name: (model.info, model.num_groups) for name, model in self.controller.models.items()}
        async with asyncio.timeout(20):
            while {name: await self._known(name) for name in wanted} != wanted:
                pass

    async def _known(self, name: str) -> tuple[types_pb2.ModelInfo, int]:
        reply = await self.stub.GetModel(pb.GetModelRequest(model=name))
        return reply.model, reply.num_groups

    async def until_health(self, wanted: int) -> None:
        """Return when the gateway's health is as wanted."""
        request = health_pb2.HealthCheckRequest(service="liger.v1.InferenceService")
        health = health_pb2_grpc.HealthStub(self.channel)
        async with asyncio.timeout(20):
            while (await health.Check(request)).status != wanted:
                pass


@asynccontextmanager
async def running(controller: FakeController, **options: Any) -> AsyncIterator[Gateway]:
    """Run a gateway in front of a controller (that may not listen yet)."""
    config = GatewayConfig(listen="127.0.0.1:0", controller=controller.address, drain_limit_s=20.0, **options)
    service = GatewayService(config)
    await service.start()
    client = AsyncClient(service.address, timeout_s=20.0)
    channel = open_channel(service.address)
    try:
        yield Gateway(controller, service, channel, client)
    finally:
        await client.close()
        await channel.close()
        await service.stop()


@pytest.fixture
async def controller() -> AsyncIterator[FakeController]:
    """A controller with one model of each kind."""
    fake = FakeController(all_models())
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def gateway(controller: FakeController) -> AsyncIterator[Gateway]:
    """A gateway that serves."""
    async with running(controller) as made:
        await made.until_health(SERVING)
        yield made


StartGateway = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def start_gateway(controller: FakeController) -> AsyncIterator[StartGateway]:
    """Starts a gateway with other settings than the defaults."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> Gateway:
            made = await stack.enter_async_context(running(controller, **options))
            await made.until_health(SERVING)
            return made

        yield start
