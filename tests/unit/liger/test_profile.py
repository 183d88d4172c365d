import pytest

from liger.domain import BatchKind, SegmentKind
from liger.errors import InvalidRequestError
from liger.profile import ContentionSample, ExchangeChoice, ProfileTable, SegmentSample
from liger.rpc.profile import from_profile, to_profile
from liger.v1 import types_pb2, worker_pb2

TABLE = ProfileTable(
    key="k",
    activation_bytes=144,
    segments=(
        SegmentSample(batch=None, segment=SegmentKind.ALL_REDUCE, num_tokens=16, context=0, duration_ns=5, held_ns=3),
        SegmentSample(batch=BatchKind.DECODE, segment=SegmentKind.ATTENTION, num_tokens=4, context=512, duration_ns=7),
    ),
    contention=(
        ContentionSample(
            compute=SegmentKind.MLP,
            compute_tokens=32,
            communication_bytes=2304,
            compute_factor=1.25,
            communication_factor=1.1,
        ),
    ),
    exchange_choices=(
        ExchangeChoice(
            num_tokens=16, is_beside_compute=True, communicator="nccl", duration_ns=9, delay_ns=2, is_chosen=True
        ),
    ),
)


def test_a_profile_comes_back_as_it_went():
    wire = from_profile(TABLE).SerializeToString()
    assert to_profile(worker_pb2.ProfileTable.FromString(wire)) == TABLE


def test_exchanges_belong_to_no_kind_of_batch():
    assert from_profile(TABLE).segments[0].batch == types_pb2.BATCH_KIND_UNSPECIFIED


@pytest.mark.parametrize("field", ["key", "activation_bytes", "segments"])
def test_a_profile_without_what_it_needs_is_refused(field):
    message = from_profile(TABLE)
    message.ClearField(field)
    with pytest.raises(InvalidRequestError, match="needs a key"):
        to_profile(message)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("duration_ns", -1),
        ("held_ns", -1),
        ("held_ns", 8),
        ("num_tokens", 0),
        ("segment", 99),
        ("batch", 99),
    ],
)
def test_a_sample_that_no_measurement_gives_is_refused(field, value):
    message = from_profile(TABLE)
    setattr(message.segments[1], field, value)
    with pytest.raises(InvalidRequestError):
        to_profile(message)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_a_factor_that_no_measurement_gives_is_refused(factor):
    message = from_profile(TABLE)
    message.contention[0].communication_factor = factor
    with pytest.raises(InvalidRequestError):
        to_profile(message)


@pytest.mark.parametrize("field", ["compute_tokens", "communication_bytes"])
def test_a_co_run_of_nothing_is_refused(field):
    message = from_profile(TABLE)
    setattr(message.contention[0], field, 0)
    with pytest.raises(InvalidRequestError):
        to_profile(message)


@pytest.mark.parametrize(
    ("field", "value"), [("num_tokens", 0), ("duration_ns", -1), ("delay_ns", -1), ("communicator", "")]
)
def test_a_way_to_exchange_that_no_measurement_gives_is_refused(field, value):
    message = from_profile(TABLE)
    setattr(message.exchange_choices[0], field, value)
    with pytest.raises(InvalidRequestError):
        to_profile(message)
