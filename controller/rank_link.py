"""One rank as the controller reaches it: join, profile, execute, leave."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio

from controller.codec.ranks import encode_attach, to_forwards, to_outcome
from controller.core.plan import Forwards
from controller.membership.base import Member
from liger.domain import Fence
from liger.errors import GroupFailedError, InvalidRequestError
from liger.profile import ProfileTable
from liger.rpc.channel import open_channel
from liger.rpc.profile import to_profile
from liger.rpc.status import from_message, from_rpc_error
from liger.rpc.values import from_fence
from liger.schedule import WindowOutcome
from liger.v1 import worker_pb2, worker_pb2_grpc

LEAVE_LIMIT_S: Final = 10.0

_EXECUTE: Final = f"/{worker_pb2.DESCRIPTOR.services_by_name['WorkerService'].full_name}/Execute"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinPlan:
    """What a rank is told when an epoch begins."""

    fence: Fence
    tp_rank: int
    tp_size: int
    pp_stage: int
    pp_size: int
    rendezvous_endpoint: str
    num_slots: int
    max_batch_tokens: int
    num_rows: int
    stage_layers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What a rank answers when it is ready."""

    forwards: Forwards
    num_blocks: int
    block_size: int
    weight_bytes: int
    kv_bytes: int


class RankLink:
    """The conversation with one rank in one epoch.

    Args:
        member: The worker.
        rank: Its place in the group.
    """

    def __init__(self, member: Member, rank: int) -> None:
        self.member = member
        self.rank = rank
        self._channel = open_channel(member.address)
        self._stub = worker_pb2_grpc.WorkerServiceStub(self._channel)
        self._call: grpc.aio.StreamStreamCall[bytes, worker_pb2.ExecuteResponse] | None = None

    async def join(self, plan: JoinPlan, limit_s: float, on_progress: Callable[[str, float], None]) -> Joined:
        """Make the worker load its shard and find the other ranks.

        Raises:
            GroupFailedError: It could not.
        """
        request = worker_pb2.JoinGroupRequest(
            fence=from_fence(plan.fence),
            tp_rank=plan.tp_rank,
            tp_size=plan.tp_size,
            pp_stage=plan.pp_stage,
            pp_size=plan.pp_size,
            rendezvous_endpoint=plan.rendezvous_endpoint,
            num_slots=plan.num_slots,
            max_batch_tokens=plan.max_batch_tokens,
            num_rows=plan.num_rows,
            stage_layers=plan.stage_layers,
        )
        with self._failures():
            async for response in self._stub.JoinGroup(request, timeout=limit_s):
                if response.HasField("progress"):
                    on_progress(response.progress.phase, response.progress.fraction)
                elif response.HasField("joined"):
                    return _to_joined(response.joined)
        raise GroupFailedError(f"{self._name} ended JoinGroup without a result")

    async def profile(
        self, fence: Fence, limit_s: float, on_progress: Callable[[str, float], None], *, fresh: bool = False
    ) -> ProfileTable:
        """Make the worker measure, together with the others; comes after `join` and before `attach`.

        Raises:
            GroupFailedError: It could not, or what it measured cannot be.
        """
        request = worker_pb2.ProfileRequest(fence=from_fence(fence), fresh=fresh)
        try:
            with self._failures():
                async for response in self._stub.Profile(request, timeout=limit_s):
                    if response.HasField("progress"):
                        on_progress(response.progress.phase, response.progress.fraction)
                    elif response.HasField("table"):
                        return to_profile(response.table)
        except InvalidRequestError as error:
            raise GroupFailedError(f"{self._name} measured what cannot be: {error.message}") from error
        raise GroupFailedError(f"{self._name} ended Profile without a result")

    async def attach(self, fence: Fence) -> None:
        """Begin the epoch's conversation."""
        execute: grpc.aio.StreamStreamMultiCallable[bytes, worker_pb2.ExecuteResponse] = (
            self._channel.stream_stream(  # the stub's, but for requests that come as bytes
                _EXECUTE, request_serializer=None, response_deserializer=worker_pb2.ExecuteResponse.FromString
            )
        )
        self._call = execute()
        await self._write(encode_attach(fence, 0))

    async def publish(self, requests: Sequence[bytes]) -> None:
        """Send a window, and its pattern before it if the rank does not know it yet, as `encode_…` made them."""
        for request in requests:
            await self._write(request)

    async def outcomes(self) -> AsyncIterator[WindowOutcome]:
        """Give the rank's acknowledgements as they come; never ends well.

        Raises:
            GroupFailedError: The rank failed or its stream broke.
        """
        assert self._call is not None, "attach first"
        with self._failures():
            async for response in self._call:
                match response.WhichOneof("message"):
                    case "result":
                        yield to_outcome(response.result)
                    case "failure":
                        raise GroupFailedError(f"{self._name} failed: {from_message(response.failure).message}")
        raise GroupFailedError(f"{self._name} closed its stream")

    async def leave(self, fence: Fence) -> None:
        """Tell the rank that the epoch is over, if it can still hear it, and let go of it."""
        if self._call is not None:
            self._call.cancel()
        try:
            await self._stub.Leave(worker_pb2.LeaveRequest(fence=from_fence(fence)), timeout=LEAVE_LIMIT_S)
        except grpc.aio.AioRpcError:
            pass  # it is gone, or it never joined; a stale epoch is refused by its fence
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the channel."""
        await asyncio.shield(self._channel.close())

    @property
    def _name(self) -> str:
        return f"rank {self.rank} ({self.member.worker_id} at {self.member.address})"

    async def _write(self, request: bytes) -> None:
        assert self._call is not None, "attach first"
        try:
            await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise GroupFailedError(f"{self._name} closed its stream") from error
        except asyncio.CancelledError as error:
            raise self._cancelled(error) from error

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Tell what a call's end means for the group."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise self._failed(error) from error
        except asyncio.CancelledError as error:
            raise self._cancelled(error) from error

    def _cancelled(self, error: asyncio.CancelledError) -> BaseException:
        """Tell our own cancel from the rank's: gRPC raises the same for status CANCELLED."""
        task = asyncio.current_task()
        return error if task is not None and task.cancelling() else RankLostError(self, "ended the call")

    def _failed(self, error: grpc.aio.AioRpcError) -> GroupFailedError:
        lost = error.code() is grpc.StatusCode.UNAVAILABLE
        reason = "is lost" if lost else f"failed: {from_rpc_error(error).message}"
        return RankLostError(self, reason) if lost else GroupFailedError(f"{self._name} {reason}")


class RankLostError(GroupFailedError):
    """A rank's connection broke: its process is gone or cannot be reached."""

    def __init__(self, link: RankLink, reason: str) -> None:
        super().__init__(f"rank {link.rank} ({link.member.worker_id} at {link.member.address}) {reason}")
        self.worker_id = link.member.worker_id


def _to_joined(message: worker_pb2.JoinGroupJoined) -> Joined:
    return Joined(
        forwards=to_forwards(message.forwards),
        num_blocks=message.num_blocks,
        block_size=message.block_size,
        weight_bytes=message.weight_bytes,
        kv_bytes=message.kv_bytes,
    )
