"""WorkerService: decode, call, encode."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import grpc.aio

from liger.errors import InvalidRequestError, LigerError
from liger.rpc.profile import from_profile
from liger.rpc.status import to_message
from liger.rpc.streams import until_ended
from liger.v1 import types_pb2, worker_pb2, worker_pb2_grpc
from worker.assets import ASSET_NAMES
from worker.codec import from_joined, from_outcome, to_fence, to_join_plan, to_pattern, to_window
from worker.session import Session

PART_BYTES: Final = 1 << 20

Context = grpc.aio.ServicerContext[Any, Any]


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """One rank, as the controller calls it."""

    def __init__(self, session: Session, model_folder: Path) -> None:
        self._session = session
        self._folder = model_folder

    async def JoinGroup(
        self, request: worker_pb2.JoinGroupRequest, context: Context
    ) -> AsyncIterator[worker_pb2.JoinGroupResponse]:
        """Load weights, find the other ranks and begin an epoch."""
        progress: asyncio.Queue[tuple[str, float] | None] = asyncio.Queue()
        join = asyncio.create_task(self._session.join(to_join_plan(request), progress))
        try:
            while (said := await progress.get()) is not None:
                message = worker_pb2.JoinProgress(phase=said[0], fraction=said[1])
                yield worker_pb2.JoinGroupResponse(progress=message)
            yield from_joined(await join)
        finally:
            join.cancel()

    async def Execute(
        self, request_iterator: AsyncIterator[worker_pb2.ExecuteRequest], context: Context
    ) -> AsyncIterator[worker_pb2.ExecuteResponse]:
        """Run one epoch's windows."""
        first = await anext(aiter(request_iterator), None)
        if first is None or not first.HasField("attach"):
            raise InvalidRequestError("the first message must be attach", field="attach")
        last_executed = self._session.attach(to_fence(first.attach.fence))
        yield worker_pb2.ExecuteResponse(attached=worker_pb2.Attached(last_executed=last_executed))
        reader = asyncio.create_task(self._read(request_iterator))
        try:
            async for outcome in until_ended(self._session.outcomes(), reader):
                yield from_outcome(outcome)
        except LigerError as error:
            yield worker_pb2.ExecuteResponse(failure=to_message(error))
        finally:
            reader.cancel()
            self._session.detach()

    async def Leave(self, request: worker_pb2.LeaveRequest, context: Context) -> worker_pb2.LeaveResponse:
        """End the epoch on this rank."""
        await self._session.leave(to_fence(request.fence))
        return worker_pb2.LeaveResponse()

    async def Profile(
        self, request: worker_pb2.ProfileRequest, context: Context
    ) -> AsyncIterator[worker_pb2.ProfileResponse]:
        """Measure segments, exchanges and co-runs."""
        progress: asyncio.Queue[tuple[str, float] | None] = asyncio.Queue()
        profile = asyncio.create_task(self._session.profile(to_fence(request.fence), progress, fresh=request.fresh))
        try:
            while (said := await progress.get()) is not None:
                message = worker_pb2.JoinProgress(phase=said[0], fraction=said[1])
                yield worker_pb2.ProfileResponse(progress=message)
            yield worker_pb2.ProfileResponse(table=from_profile(await profile))
        finally:
            profile.cancel()

    async def GetAssets(
        self, request: worker_pb2.GetAssetsRequest, context: Context
    ) -> AsyncIterator[worker_pb2.GetAssetsResponse]:
        """Read the files that a gateway needs."""
        for name in ASSET_NAMES:
            path = self._folder / name
            if path.is_file():
                content = await asyncio.to_thread(path.read_bytes)
                for start in range(0, max(len(content), 1), PART_BYTES):
                    part, last = content[start : start + PART_BYTES], start + PART_BYTES >= len(content)
                    yield worker_pb2.GetAssetsResponse(asset=types_pb2.ModelAsset(name=name, content=part, last=last))

    async def _read(self, requests: AsyncIterator[worker_pb2.ExecuteRequest]) -> None:
        async for request in requests:
            match request.WhichOneof("message"):
                case "pattern":
                    self._session.learn(to_pattern(request.pattern))
                case "schedule":
                    self._session.launch(to_window(request.schedule))
                case _:
                    raise InvalidRequestError("only patterns and schedules may follow attach")
