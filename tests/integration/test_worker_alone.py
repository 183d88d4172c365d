"""One worker process, with the test in the controller's place: every RPC of WorkerService as it is on the wire."""

import queue
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch

from liger.digest import launch_digest, order_digest, pattern_digest
from liger.domain import BatchKind, Lane
from liger.errors import ScheduleRefusedError, StaleFenceError
from liger.rpc.status import from_message, from_rpc_error
from liger.schedule import Step
from liger.v1 import types_pb2
from liger.v1 import worker_pb2 as pb
from liger.v1.worker_pb2_grpc import WorkerServiceStub
from tests.support.tiny_models import model_maker

LIMIT_S = 60.0
TOKEN_IDS = [5, 17, 40, 99]
EPOCHS = count(100)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny Llama: its folder, with a tokenizer file of some size, and the model itself."""
    folder, model = model_maker(tmp_path_factory.mktemp("models"))("llama")
    (folder / "tokenizer.json").write_bytes(bytes(range(256)) * 6000)
    return folder, model


@pytest.fixture(scope="module")
def worker(model, tmp_path_factory) -> Iterator[WorkerServiceStub]:
    flags = {
        "model-folder": str(model[0]),
        "controller": "127.0.0.1:9",
        "threads": "1",
        "kv-cache-gib": "0.01",
        "profile-folder": str(tmp_path_factory.mktemp("profiles")),
        "profile-limit-s": "1",
    }
    command = [
        sys.executable,
        "-m",
        "worker",
        *(part for name, value in flags.items() for part in (f"--{name}", value)),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        address = process.stdout.readline().rpartition(" ")[2].strip()
        with grpc.insecure_channel(address) as channel:
            yield WorkerServiceStub(channel)
        process.terminate()
    assert process.returncode == 0


def fence(epoch: int) -> types_pb2.Fence:
    return types_pb2.Fence(leader_term=1, group="llama", epoch=epoch)


def join(worker: WorkerServiceStub, epoch: int, stage_layers: tuple[int, ...] = (3,)) -> list[pb.JoinGroupResponse]:
    request = pb.JoinGroupRequest(
        fence=fence(epoch),
        tp_rank=0,
        tp_size=1,
        pp_size=1,
        num_slots=1,
        max_batch_tokens=64,
        num_rows=4,
        stage_layers=stage_layers,
        rendezvous_endpoint="127.0.0.1:1",
    )
    return list(worker.JoinGroup(request, timeout=LIMIT_S))


def steps_of(joined: pb.JoinGroupJoined) -> list[Step]:
    segments = next(forward.segments for forward in joined.forwards if forward.kind == BatchKind.ENCODE)
    return [Step(operand=0, segment=place, lane=Lane(segment.lane)) for place, segment in enumerate(segments)]


def encode_window(joined: pb.JoinGroupJoined, epoch: int, number: int) -> Iterator[pb.ExecuteRequest]:
    """Give the pattern and the schedule of one encode batch that pools the last token."""
    steps = steps_of(joined)
    pattern_id = pattern_digest([BatchKind.ENCODE], steps)
    places = [pb.Pattern.Step(operand=0, segment=step.segment, lane=int(step.lane)) for step in steps]
    yield pb.ExecuteRequest(pattern=pb.Pattern(id=pattern_id, operands=[types_pb2.BATCH_KIND_ENCODE], steps=places))
    pooled = pb.EncodeRows.Output(pool=pb.PoolOutput(pooling=types_pb2.POOLING_LAST, normalize=False))
    rows = pb.EncodeRows(num_tokens=[len(TOKEN_IDS)], token_ids=TOKEN_IDS, outputs=[pooled])
    schedule = pb.Schedule(
        fence=fence(epoch),
        number=number,
        pattern_id=pattern_id,
        batch_ids=[1],
        batch_starts=[pb.BatchStart(batch_id=1, kind=types_pb2.BATCH_KIND_ENCODE, slot=0, encode=rows)],
        order_digest=order_digest(pattern_id, [1]),
        timed=True,
    )
    yield pb.ExecuteRequest(schedule=schedule)


def attach(epoch: int) -> pb.ExecuteRequest:
    return pb.ExecuteRequest(attach=pb.Attach(fence=fence(epoch)))


def converse(worker: WorkerServiceStub, requests: list[pb.ExecuteRequest]) -> list[pb.ExecuteResponse]:
    """Send requests and return the first two responses, with the conversation open until then."""
    outgoing: queue.SimpleQueue[pb.ExecuteRequest | None] = queue.SimpleQueue()
    for request in requests:
        outgoing.put(request)
    call = worker.Execute(iter(outgoing.get, None), timeout=LIMIT_S)
    try:
        return [next(call), next(call)]
    finally:
        outgoing.put(None)
        call.cancel()


def test_a_window_runs_as_published_and_gives_what_transformers_gives(worker, model):
    *progress, last = join(worker, epoch=1)
    assert {said.progress.phase for said in progress} >= {"loading weights"}
    requests = [attach(1), *encode_window(last.joined, epoch=1, number=1)]

    attached, result = converse(worker, requests)

    assert attached.HasField("attached")
    assert result.result.number == 1
    assert result.result.launched_digest == order_digest(launch_digest(steps_of(last.joined), 0), [1])
    spans = result.result.timings.spans
    assert sorted(spans.steps) == list(range(len(requests[1].pattern.steps)))
    assert set(spans.windows) == {1}
    assert all(begin_ns <= end_ns for begin_ns, end_ns in zip(spans.begins_ns, spans.ends_ns, strict=True))
    assert sum(result.result.timings.batch_compute_ns) == result.result.timings.compute_ns > 0
    with torch.no_grad():
        wanted = model[1].model(torch.tensor([TOKEN_IDS])).last_hidden_state[0, -1].numpy()
    np.testing.assert_allclose(result.result.batches[0].items[0].values, wanted, atol=1e-4)


def test_a_window_with_a_gap_ends_the_conversation_with_its_reason(worker):
    joined = join(worker, epoch=2)[-1].joined
    requests = [attach(2), *encode_window(joined, epoch=2, number=5)]

    last = converse(worker, requests)[-1]

    error = from_message(last.failure)
    assert isinstance(error, ScheduleRefusedError)
    assert "window 5 came after window 0" in error.message


def test_stages_that_are_not_the_models_layers_are_refused(worker):
    with pytest.raises(grpc.RpcError) as caught:
        join(worker, epoch=3, stage_layers=(2,))
    assert "stages of 2 layers do not make up the model's 3 layers" in caught.value.details()


def test_an_epoch_that_is_over_can_be_joined_attached_and_left_no_more(worker):
    join(worker, epoch=4)
    calls = [
        lambda: join(worker, epoch=3),
        lambda: list(worker.Execute(iter([attach(3)]), timeout=LIMIT_S)),
        lambda: worker.Leave(pb.LeaveRequest(fence=fence(3)), timeout=LIMIT_S),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert isinstance(from_rpc_error(caught.value), StaleFenceError)


def test_a_left_epoch_takes_no_conversation_and_a_later_one_does(worker):
    join(worker, epoch=5)
    worker.Leave(pb.LeaveRequest(fence=fence(5)), timeout=LIMIT_S)

    with pytest.raises(grpc.RpcError):
        list(worker.Execute(iter([attach(5)]), timeout=LIMIT_S))
    assert join(worker, epoch=6)[-1].HasField("joined")


def test_the_files_a_gateway_needs_come_in_parts(worker, model):
    parts = [part.asset for part in worker.GetAssets(pb.GetAssetsRequest(), timeout=LIMIT_S)]

    tokenizer = [part for part in parts if part.name == "tokenizer.json"]
    assert b"".join(part.content for part in tokenizer) == (Path(model[0]) / "tokenizer.json").read_bytes()
    assert [part.last for part in tokenizer] == [False, True]


def test_a_profile_is_measured_once_and_then_remembered(worker):
    join(worker, epoch=7)
    request = pb.ProfileRequest(fence=fence(7))
    *progress, last = worker.Profile(request, timeout=LIMIT_S)
    assert "measuring segments" in {said.progress.phase for said in progress}
    assert {sample.segment for sample in last.table.segments} >= {pb.SEGMENT_KIND_ATTENTION, pb.SEGMENT_KIND_MLP}
    assert last.table.activation_bytes == 36 * 4

    *_, again = worker.Profile(request, timeout=LIMIT_S)
    assert again.table == last.table


def test_a_profile_of_another_epoch_is_refused(worker):
    join(worker, epoch=9)
    with pytest.raises(grpc.RpcError) as caught:
        list(worker.Profile(pb.ProfileRequest(fence=fence(8)), timeout=LIMIT_S))
    assert isinstance(from_rpc_error(caught.value), StaleFenceError)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"order_digest": 5}, "another order than its digest says"),
        ({"pattern_id": 5}, "unknown pattern"),
        ({"batch_ids": [2]}, "another order than its digest says"),
        ({"batch_starts": []}, "not in flight so"),
        ({"fence": fence(1)}, "a schedule of epoch 1 came"),
    ],
)
def test_a_hostile_window_ends_the_conversation_with_its_reason(worker, change, reason):
    epoch = next(EPOCHS)
    joined = join(worker, epoch)[-1].joined
    *first, last = [attach(epoch), *encode_window(joined, epoch=epoch, number=1)]
    for name, value in change.items():
        last.schedule.ClearField(name)
        last.schedule.MergeFrom(pb.Schedule(**{name: value}))
    assert reason in from_message(converse(worker, [*first, last])[-1].failure).message
