"""InferenceService: decode, call, encode."""

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, aclosing
from typing import Any, Final

import grpc.aio

from gateway import codec
from gateway.assets import AssetStore
from gateway.calls import Calls
from gateway.catalogue import Catalogue
from gateway.generate import Generator
from gateway.infer import Inferrer
from gateway.model import Served
from gateway.prompts import tokenize
from gateway.validation.generate import to_generation
from gateway.validation.infer import to_inference
from gateway.validation.tokenize import to_tokenization
from gateway.work import CallContext
from liger.v1 import inference_pb2 as pb
from liger.v1.inference_pb2_grpc import InferenceServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]
TRACE_HEADERS: Final = frozenset({"traceparent", "tracestate", "baggage"})


class InferenceServicer(InferenceServiceServicer):
    """What clients call.

    Args:
        calls: Those under way.
        catalogue: The models.
        assets: Their tokenizers.
        generator: Runs Generate.
        inferrer: Runs Infer.
        max_inputs: Inputs of one Infer call.
    """

    def __init__(
        self,
        *,
        calls: Calls,
        catalogue: Catalogue,
        assets: AssetStore,
        generator: Generator,
        inferrer: Inferrer,
        max_inputs: int,
    ) -> None:
        self._calls = calls
        self._catalogue = catalogue
        self._assets = assets
        self._generator = generator
        self._inferrer = inferrer
        self._max_inputs = max_inputs

    async def Infer(self, request: pb.InferRequest, context: Context) -> pb.InferResponse:
        """Embed, classify, rerank or score many inputs."""
        with self._admit("Infer", request.request_id, context) as call:
            model = self._catalogue.find_serving(request.model).model
            inference = to_inference(request, model, self._max_inputs)
            return codec.from_reply(await self._inferrer.run(inference, call))

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> AsyncIterator[pb.GenerateResponse]:
        """Continue a prompt."""
        with self._admit("Generate", request.request_id, context) as call:
            generation = to_generation(request, self._catalogue.find_serving(request.model).model)
            async with aclosing(self._generator.run(generation, call)) as events:
                async for event in events:
                    yield codec.from_event(event)

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """Turn text into token ids."""
        with self._admit("Tokenize", "", context):
            tokenization = to_tokenization(request, self._catalogue.find(request.model).model)
            return codec.from_tokenize(await tokenize(tokenization, await self._assets.get(tokenization.model)))

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """Describe one model."""
        with self._admit("GetModel", "", context):
            return await self._describe(self._catalogue.find(request.model))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """Describe all models."""
        with self._admit("ListModels", "", context):
            return pb.ListModelsResponse(models=[await self._describe(served) for served in self._catalogue.all()])

    def _admit(self, method: str, request_id: str, context: Context) -> AbstractContextManager[CallContext]:
        headers = {key: str(value) for key, value in context.invocation_metadata() or () if key in TRACE_HEADERS}
        return self._calls.admit(method, request_id, context.time_remaining(), headers)

    async def _describe(self, served: Served) -> pb.GetModelResponse:
        has_template = served.num_groups > 0 and await self._assets.has_template(served.model)
        return codec.from_served(served, has_chat_template=has_template)
