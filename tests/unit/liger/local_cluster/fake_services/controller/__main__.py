"""A controller that counts ranks: a group serves once it has as many as it wants."""

import asyncio
import sys

from liger.rpc.server import RpcServer
from liger.v1 import controller_pb2 as pb
from liger.v1.controller_pb2_grpc import ControllerServiceServicer, add_ControllerServiceServicer_to_server


class Servicer(ControllerServiceServicer):
    def __init__(self) -> None:
        self.groups: dict[str, pb.GroupStatus] = {}

    async def Register(self, request, context):  # noqa: N802 - the contract's name
        world_size = request.tp_size * request.pp_size
        status = pb.GroupStatus(name=request.group, model=request.model.name, world_size=world_size)
        group = self.groups.setdefault(request.group, status)
        group.ranks.add(worker_id=request.worker_id, rank=request.rank)
        serving = len(group.ranks) == group.world_size
        group.state = pb.GroupStatus.STATE_SERVING if serving else pb.GroupStatus.STATE_WAITING
        return pb.RegisterResponse(lease_id=1, ttl_s=60)

    async def GetCluster(self, request, context):  # noqa: N802 - the contract's name
        return pb.GetClusterResponse(groups=self.groups.values())


async def main() -> None:
    flags = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    server = RpcServer()
    add_ControllerServiceServicer_to_server(Servicer(), server.grpc)
    address = server.bind(flags["--listen"])
    await server.start([])
    sys.stdout.write(f"controller listening on {address}\n")
    sys.stdout.flush()
    await server.grpc.wait_for_termination()


asyncio.run(main())
