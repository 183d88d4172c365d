"""What stands beside the service: health, reflection, identity, and the process itself."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gateway.identity import ANONYMOUS, Identity, IdentityInterceptor, Metadata, current_identity
from liger.client import AsyncClient
from liger.errors import UnauthenticatedError, UnavailableError
from liger.rpc.channel import open_channel
from liger.rpc.server import RpcServer
from liger.v1 import inference_pb2 as pb
from liger.v1.inference_pb2_grpc import (
    InferenceServiceServicer,
    InferenceServiceStub,
    add_InferenceServiceServicer_to_server,
)
from tests.support.fake_controller import FakeController
from tests.unit.gateway.conftest import SERVING, Gateway

GRPCURL = Path(sysconfig.get_path("scripts")) / "grpcurl"


async def test_every_rpc_of_the_service_is_implemented(gateway: Gateway) -> None:
    service = pb.DESCRIPTOR.services_by_name["InferenceService"]
    requests = {"GetModel": pb.GetModelRequest(model="chat"), "ListModels": pb.ListModelsRequest()}
    for method in service.methods:
        kind = getattr(pb, method.input_type.name)
        call = getattr(gateway.stub, method.name)(requests.get(method.name, kind()))
        try:
            await (call.read() if hasattr(call, "read") else call)
            code = grpc.StatusCode.OK
        except grpc.aio.AioRpcError as error:
            code = error.code()
        assert code in {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}, method.name


async def test_reflection_lists_the_services(gateway: Gateway) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(gateway.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    call = stub.ServerReflectionInfo(iter([request]))
    answer = await call.read()
    names = {service.name for service in answer.list_services_response.service}
    assert {"liger.v1.InferenceService", "grpc.health.v1.Health"} <= names
    call.cancel()


@pytest.mark.skipif(not GRPCURL.exists(), reason="the grpcurl wheel is not installed")
async def test_grpcurl_lists_and_describes(gateway: Gateway) -> None:
    async def grpcurl(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            GRPCURL, "-plaintext", gateway.address, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return out.decode()

    assert "liger.v1.InferenceService" in await grpcurl("list")
    assert "rpc Generate" in await grpcurl("describe", "liger.v1.InferenceService")


async def test_health_is_told_for_the_server_and_the_service(gateway: Gateway) -> None:
    health = health_pb2_grpc.HealthStub(gateway.channel)
    for name in ("", "liger.v1.InferenceService"):
        assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING


class Guarded(InferenceServiceServicer):
    async def GetModel(self, request: pb.GetModelRequest, context: object) -> pb.GetModelResponse:  # noqa: N802
        return pb.GetModelResponse(model={"name": current_identity().subject})

    async def Generate(self, request: pb.GenerateRequest, context: object):  # noqa: N802
        yield pb.GenerateResponse(started={"model": current_identity().subject})


class ByName:
    """Believes the name that a caller gives."""

    def authenticate(self, metadata: Metadata) -> Identity:
        names = [value for key, value in metadata if key == "name"]
        if not names:
            raise UnauthenticatedError("who are you? Send the header name")
        return Identity(str(names[0]))


async def test_the_identity_is_in_the_calls_context_or_the_call_is_refused() -> None:
    server = RpcServer([IdentityInterceptor(ByName())])
    address = server.bind("127.0.0.1:0")
    add_InferenceServiceServicer_to_server(Guarded(), server.grpc)
    await server.start(["liger.v1.InferenceService"])
    async with open_channel(address) as channel:
        stub = InferenceServiceStub(channel)
        reply = await stub.GetModel(pb.GetModelRequest(), metadata=(("name", "ada"),))
        assert reply.model.name == "ada"
        message = await stub.Generate(pb.GenerateRequest(), metadata=(("name", "bob"),)).read()
        assert message.started.model == "bob"
        for call in (stub.GetModel(pb.GetModelRequest()), stub.Generate(pb.GenerateRequest()).read()):
            with pytest.raises(grpc.aio.AioRpcError, match="who are you") as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    await server.stop(0)
    assert current_identity() is ANONYMOUS


async def start_process(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ),
    )


async def test_the_process_tells_where_it_listens_serves_and_drains_on_sigterm(controller: FakeController) -> None:
    process = await start_process("--listen", "127.0.0.1:0", "--controller", controller.address, "--json-logs")
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert line.startswith("gateway listening on 127.0.0.1:")
    await controller.until(lambda: controller.conversations)
    secret = "my secret prompt"
    async with AsyncClient(line.split()[-1], timeout_s=20) as client:
        while not (await _models(client)):
            pass
        text = await client.generate("chat", secret, request_id="logged").text()
    process.send_signal(signal.SIGTERM)
    out, logs = await process.communicate()
    assert (process.returncode, out) == (0, b"")
    assert text == secret  # the fake echoes
    assert secret not in logs.decode()
    entries = [json.loads(entry) for entry in logs.decode().splitlines()]
    [ended] = [entry for entry in entries if entry.get("request_id") == "logged"]
    assert (ended["message"], ended["method"], ended["outcome"]) == ("call ended", "Generate", "OK")
    assert ended["subject"] == "anonymous"


async def _models(client: AsyncClient) -> bool:
    try:
        return bool(await client.list_models())
    except UnavailableError:
        return False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--listen", "0.0.0.0:0"], "--insecure"),
        (["--listen", "nonsense"], "host:port"),
        (["--max-requests", "0"], "--max-requests must be at least 1"),
        (["--max-inputs", "0"], "--max-inputs must be at least 1"),
        (["--max-message-mib", "65"], "--max-message-mib must be 1 to 64"),
        (["--drain-limit-s", "inf"], "--drain-limit-s"),
        (["--log-level", "LOUD"], "--log-level"),
    ],
)
async def test_a_wrong_setting_is_an_exit_code_and_one_line(arguments: list[str], words: str) -> None:
    process = await start_process(*arguments)
    out, errors = await process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert words in errors.decode()
    assert len(errors.decode().splitlines()) == 1


async def test_a_used_port_is_an_exit_code_and_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = await start_process("--listen", f"127.0.0.1:{taken.getsockname()[1]}")
        _, errors = await process.communicate()
    assert process.returncode == 2
    assert "the port is in use" in errors.decode()


async def test_the_gateway_loads_no_torch_and_no_numpy() -> None:
    code = "import gateway.__main__, sys; print(*{name.split('.')[0] for name in sys.modules})"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    assert not {"torch", "numpy", "transformers"} & set(out.decode().split())
