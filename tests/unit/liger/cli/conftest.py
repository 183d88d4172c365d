"""A gateway and a controller that answer with fixed values, and a runner of commands against them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status
from typer.testing import CliRunner

from liger.cli.main import app
from liger.errors import LigerError, ModelNotFoundError
from liger.rpc.status import to_status
from liger.v1 import controller_pb2, inference_pb2, types_pb2
from liger.v1.controller_pb2_grpc import ControllerServiceServicer, add_ControllerServiceServicer_to_server
from liger.v1.inference_pb2_grpc import InferenceServiceServicer, add_InferenceServiceServicer_to_server

ACCOUNT = {
    "usage": types_pb2.Usage(prompt_tokens=24, completion_tokens=11, cached_tokens=4),
    "timings": types_pb2.Timings(
        queue_ns=1_500_000,
        prefill_ns=80_000_000,
        decode_ns=500_000_000,
        total_ns=600_000_000,
        saved_prefill_ns=9_000_000,
    ),
    "placement": types_pb2.Placement(group="chat", epoch=1, worker_ids=["w0", "w1"]),
}


def model(name: str, *tasks: int, chat: bool = False) -> inference_pb2.GetModelResponse:
    info = types_pb2.ModelInfo(name=name, tasks=tasks)
    return inference_pb2.GetModelResponse(model=info, num_groups=1, has_chat_template=chat)


@dataclass
class FakeGateway(InferenceServiceServicer):
    """Answers like a gateway; notes what it was asked."""

    models: list[inference_pb2.GetModelResponse] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)
    result: inference_pb2.InferResponse = field(default_factory=inference_pb2.InferResponse)
    texts: tuple[str, ...] = ("Paris", ".")
    failure: LigerError | None = None

    def ListModels(self, request, context):  # noqa: N802 - the contract's name
        return inference_pb2.ListModelsResponse(models=self.models)

    def GetModel(self, request, context):  # noqa: N802 - the contract's name
        found = [entry for entry in self.models if entry.model.name == request.model]
        if not found:
            context.abort_with_status(rpc_status.to_status(to_status(ModelNotFoundError(f"no model {request.model}"))))
        return found[0]

    def Infer(self, request, context):  # noqa: N802 - the contract's name
        self.asked.append(request)
        return self.result

    def Generate(self, request, context):  # noqa: N802 - the contract's name
        self.asked.append(request)
        event = inference_pb2.GenerateResponse
        started = event(started={"request_id": "r1", "model": request.model, "num_prompt_tokens": 24, "seed": 7})
        if request.HasField("prompt_logprobs"):
            started.started.prompt_logprobs.add(token_id=3, logprob=-0.5)
        yield started
        likelihood = [types_pb2.TokenLogprob(token_id=8, logprob=-0.25)] if request.HasField("logprobs") else []
        for text in self.texts:
            for index in range(request.n or 1):
                yield event(delta={"index": index, "text": text, "token_ids": [8], "logprobs": likelihood})
        if self.failure is not None:
            context.abort_with_status(rpc_status.to_status(to_status(self.failure)))
        for index in range(request.n or 1):
            logprob = -0.5 if request.HasField("best_of") else None
            finished = {"index": index, "reason": types_pb2.FINISH_REASON_STOP, "num_tokens": 2, "logprob": logprob}
            yield event(finished=finished)
        yield event(summary=inference_pb2.GenerateSummary(**ACCOUNT))


@dataclass
class FakeController(ControllerServiceServicer):
    """Answers like a controller; notes what it was asked."""

    cluster: controller_pb2.GetClusterResponse = field(default_factory=controller_pb2.GetClusterResponse)
    asked: list[Any] = field(default_factory=list)
    plan: controller_pb2.ExplainPlanResponse = field(default_factory=controller_pb2.ExplainPlanResponse)
    profile: controller_pb2.GetProfileResponse = field(default_factory=controller_pb2.GetProfileResponse)
    timeline: controller_pb2.GetTimelineResponse = field(default_factory=controller_pb2.GetTimelineResponse)
    num_abandoned: int = 0  # by a renewed profile

    def ExplainPlan(self, request, context):  # noqa: N802 - the contract's name
        self.asked.append(request)
        return self.plan

    def GetProfile(self, request, context):  # noqa: N802 - the contract's name
        self.asked.append(request)
        return self.profile

    def RenewProfile(self, request, context):  # noqa: N802 - the contract's name
        self.asked.append(request)
        group = next(group for group in self.cluster.groups if group.name == request.group)
        ended, group.epoch = group.epoch, group.epoch + 1
        return controller_pb2.RenewProfileResponse(
            group=request.group, ended_epoch=ended, num_abandoned=self.num_abandoned
        )

    def GetTimeline(self, request, context):  # noqa: N802 - the contract's name
        self.asked.append(request)
        return self.timeline

    def GetCluster(self, request, context):  # noqa: N802 - the contract's name
        return self.cluster

    def Drain(self, request, context):  # noqa: N802 - the contract's name
        self.asked.append(request)
        return controller_pb2.DrainResponse(num_finished=3, num_abandoned=1)


@pytest.fixture
def gateway() -> FakeGateway:
    generate, embed, score = types_pb2.TASK_GENERATE, types_pb2.TASK_EMBED, types_pb2.TASK_SCORE
    return FakeGateway(models=[model("chat", generate, score, chat=True), model("embedder", embed)])


@pytest.fixture
def controller() -> FakeController:
    return FakeController()


@pytest.fixture
def address(gateway: FakeGateway, controller: FakeController) -> Iterator[str]:
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        add_InferenceServiceServicer_to_server(gateway, server)
        add_ControllerServiceServicer_to_server(controller, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


@pytest.fixture
def liger(address: str):
    """Run a command against the two fakes."""

    def run(*arguments: str, text: str | None = None):
        environ = {"LIGER_GATEWAY": address, "LIGER_CONTROLLER": address}
        return CliRunner().invoke(app, arguments, input=text, env=environ)

    return run
