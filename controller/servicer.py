"""ControllerService: decode, call, encode."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc.aio

from controller.codec.cluster import from_cluster, to_member
from controller.codec.plans import from_explained, from_profile_view, from_timeline, to_last_s, to_planned
from controller.gateways import Gateways
from controller.groups import Groups
from controller.membership.base import Membership
from liger.errors import InvalidRequestError, UnavailableError
from liger.rpc.channel import open_channel
from liger.v1 import controller_pb2, controller_pb2_grpc, worker_pb2, worker_pb2_grpc

ASSETS_LIMIT_S: Final = 60.0
DRAIN_LIMIT_S: Final = 30.0

Context = grpc.aio.ServicerContext[Any, Any]


class ControllerServicer(controller_pb2_grpc.ControllerServiceServicer):
    """The control plane, as gateways, ranks and operators call it."""

    def __init__(self, groups: Groups, gateways: Gateways, membership: Membership) -> None:
        self._groups = groups
        self._gateways = gateways
        self._membership = membership
        self._explaining = asyncio.Lock()

    async def Connect(
        self, request_iterator: AsyncIterator[controller_pb2.ConnectRequest], context: Context
    ) -> AsyncIterator[controller_pb2.ConnectResponse]:
        """Hold a gateway's conversation."""
        term = self._membership.leader_term
        async for message in self._gateways.converse(request_iterator, self._groups, term):
            yield message

    async def GetModelAssets(
        self, request: controller_pb2.GetModelAssetsRequest, context: Context
    ) -> AsyncIterator[controller_pb2.GetModelAssetsResponse]:
        """Fetch a model's files from a rank."""
        member = self._groups.member_with(request.model)
        try:
            async with open_channel(member.address) as channel:
                stub = worker_pb2_grpc.WorkerServiceStub(channel)
                async for part in stub.GetAssets(worker_pb2.GetAssetsRequest(), timeout=ASSETS_LIMIT_S):
                    yield controller_pb2.GetModelAssetsResponse(asset=part.asset)
        except grpc.aio.AioRpcError as error:
            raise UnavailableError(f"{member.worker_id} gave no files: {error.details()}", retry_after_s=1.0) from error

    async def GetCluster(
        self, request: controller_pb2.GetClusterRequest, context: Context
    ) -> controller_pb2.GetClusterResponse:
        """Describe groups, ranks and gateways."""
        statuses = [group.status() for group in self._groups.all()]
        return from_cluster(self._membership.leader_term, statuses, self._gateways.ids)

    async def Drain(self, request: controller_pb2.DrainRequest, context: Context) -> controller_pb2.DrainResponse:
        """Stop new work on a group and finish what is in flight."""
        limit_s = _drain_limit_s(request)
        groups = [self._groups.find(request.group)] if request.group else self._groups.all()
        finished, abandoned = await self._groups.drain(groups, limit_s)
        return controller_pb2.DrainResponse(num_finished=finished, num_abandoned=abandoned)

    async def GetProfile(
        self, request: controller_pb2.GetProfileRequest, context: Context
    ) -> controller_pb2.GetProfileResponse:
        """Return what a group's ranks measured."""
        group = self._groups.choose(request.group)
        return from_profile_view(group.name, group.profile())

    async def RenewProfile(
        self, request: controller_pb2.RenewProfileRequest, context: Context
    ) -> controller_pb2.RenewProfileResponse:
        """Let a group's ranks measure anew, in a new epoch."""
        limit_s, group = _drain_limit_s(request), self._groups.choose(request.group)
        ended, finished, abandoned = await group.renew_profile(limit_s)
        return controller_pb2.RenewProfileResponse(
            group=group.name, ended_epoch=ended, num_finished=finished, num_abandoned=abandoned
        )

    async def ExplainPlan(
        self, request: controller_pb2.ExplainPlanRequest, context: Context
    ) -> controller_pb2.ExplainPlanResponse:
        """Plan made-up batches without running them; one at a time and beside the loop, because it may take long."""
        group = self._groups.choose(request.group)
        batches = to_planned(request, group.model)
        depth = request.depth or max(1, group.status().depth)
        async with self._explaining:
            explained = await asyncio.to_thread(group.explain, batches, depth)
        return from_explained(group.name, explained)

    async def GetTimeline(
        self, request: controller_pb2.GetTimelineRequest, context: Context
    ) -> controller_pb2.GetTimelineResponse:
        """Return what ran lately; written beside the loop, because it may be long."""
        group = self._groups.choose(request.group)
        last_s, timeline = to_last_s(request), group.timeline.copy()
        return await asyncio.to_thread(lambda: from_timeline(group.name, timeline.last(last_s)))

    async def Register(
        self, request: controller_pb2.RegisterRequest, context: Context
    ) -> controller_pb2.RegisterResponse:
        """Grant a worker a lease."""
        member = to_member(request)
        self._groups.check_admissible(member)
        lease = await self._membership.register(member)
        return controller_pb2.RegisterResponse(
            lease_id=lease.lease_id, ttl_s=lease.ttl_s, leader_term=self._membership.leader_term
        )

    async def RenewLease(
        self, request: controller_pb2.RenewLeaseRequest, context: Context
    ) -> controller_pb2.RenewLeaseResponse:
        """Keep a lease alive."""
        return controller_pb2.RenewLeaseResponse(ttl_s=await self._membership.renew(request.lease_id))

    async def RevokeLease(
        self, request: controller_pb2.RevokeLeaseRequest, context: Context
    ) -> controller_pb2.RevokeLeaseResponse:
        """Take a lease back."""
        await self._membership.revoke(request.lease_id)
        return controller_pb2.RevokeLeaseResponse()


def _drain_limit_s(request: controller_pb2.DrainRequest | controller_pb2.RenewProfileRequest) -> float:
    """Return how long what is under way may take.

    Raises:
        InvalidRequestError: It is no time.
    """
    limit_s = request.timeout_s if request.HasField("timeout_s") else DRAIN_LIMIT_S
    if not 0 <= limit_s < float("inf"):
        raise InvalidRequestError("timeout_s must be a number of seconds, at least 0", field="timeout_s")
    return limit_s
