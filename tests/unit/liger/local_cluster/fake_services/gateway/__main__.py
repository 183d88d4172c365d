"""A gateway that offers what the controller's groups serve."""

import asyncio
import sys

from liger.rpc.channel import open_channel
from liger.rpc.server import RpcServer
from liger.v1 import controller_pb2, inference_pb2, types_pb2
from liger.v1.controller_pb2_grpc import ControllerServiceStub
from liger.v1.inference_pb2_grpc import InferenceServiceServicer, add_InferenceServiceServicer_to_server


class Servicer(InferenceServiceServicer):
    def __init__(self, controller: ControllerServiceStub) -> None:
        self.controller = controller

    async def ListModels(self, request, context):  # noqa: N802 - the contract's name
        cluster = await self.controller.GetCluster(controller_pb2.GetClusterRequest())
        serving = [group.model for group in cluster.groups if group.state == controller_pb2.GroupStatus.STATE_SERVING]
        models = [
            inference_pb2.GetModelResponse(model=types_pb2.ModelInfo(name=name), num_groups=serving.count(name))
            for name in sorted(set(serving))
        ]
        return inference_pb2.ListModelsResponse(models=models)


async def main() -> None:
    flags = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    async with open_channel(flags["--controller"]) as channel:
        server = RpcServer()
        add_InferenceServiceServicer_to_server(Servicer(ControllerServiceStub(channel)), server.grpc)
        address = server.bind(flags["--listen"])
        await server.start([])
        sys.stdout.write(f"gateway listening on {address}\n")
        sys.stdout.flush()
        await server.grpc.wait_for_termination()


asyncio.run(main())
