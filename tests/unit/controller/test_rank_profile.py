"""What a rank's link makes of the answers to Profile."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from controller.membership.base import Member
from controller.rank_link import RankLink
from liger.domain import Fence, SegmentKind
from liger.errors import GroupFailedError
from liger.profile import ProfileTable, SegmentSample
from liger.rpc.profile import from_profile
from liger.rpc.server import RpcServer
from liger.v1 import worker_pb2, worker_pb2_grpc
from tests.support.in_process import CARD

FENCE = Fence(leader_term=1, group="g", epoch=3)
SAMPLE = SegmentSample(batch=None, segment=SegmentKind.ALL_REDUCE, num_tokens=1, context=0, duration_ns=5)
TABLE = ProfileTable(key="k", activation_bytes=4, segments=(SAMPLE,))


class FakeWorker(worker_pb2_grpc.WorkerServiceServicer):
    def __init__(self) -> None:
        self.answers: list[worker_pb2.ProfileResponse] = []
        self.requests: list[worker_pb2.ProfileRequest] = []

    async def Profile(  # noqa: N802 - the name of the RPC
        self, request: worker_pb2.ProfileRequest, context: Any
    ) -> AsyncIterator[worker_pb2.ProfileResponse]:
        self.requests.append(request)
        for answer in self.answers:
            yield answer


@pytest.fixture
async def worker():
    server, servicer = RpcServer(), FakeWorker()
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(servicer, server.grpc)
    servicer.address = server.bind("127.0.0.1:0")
    await server.start(["liger.v1.WorkerService"])
    yield servicer
    await server.stop(0)


@pytest.fixture
async def link(worker):
    member = Member(
        worker_id="w",
        address=worker.address,
        group="g",
        model=CARD,
        tp_size=1,
        pp_size=1,
        rank=None,
        rendezvous_endpoint="",
        device_id="",
        device="",
        version="",
    )
    link = RankLink(member, 0)
    yield link
    await link.close()


async def test_a_profile_is_returned_after_its_progress(worker, link):
    progress = worker_pb2.JoinProgress(phase="measuring segments", fraction=0.5)
    worker.answers = [
        worker_pb2.ProfileResponse(progress=progress),
        worker_pb2.ProfileResponse(table=from_profile(TABLE)),
    ]
    said = []
    assert await link.profile(FENCE, 10.0, lambda *what: said.append(what), fresh=True) == TABLE
    assert said == [("measuring segments", 0.5)]
    assert worker.requests[0].fresh
    assert worker.requests[0].fence.epoch == FENCE.epoch


async def test_a_profile_that_cannot_be_fails_the_group(worker, link):
    worker.answers = [worker_pb2.ProfileResponse(table=worker_pb2.ProfileTable(key="k"))]
    with pytest.raises(GroupFailedError, match="measured what cannot be"):
        await link.profile(FENCE, 10.0, lambda *_: None)


async def test_a_rank_that_answers_nothing_fails_the_group(link):
    with pytest.raises(GroupFailedError, match="without a result"):
        await link.profile(FENCE, 10.0, lambda *_: None)
