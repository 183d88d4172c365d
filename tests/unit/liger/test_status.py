from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2

from liger import errors
from liger.rpc import status


def kinds() -> list[type[errors.LigerError]]:
    def below(kind: type[errors.LigerError]) -> Iterator[type[errors.LigerError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from below(child)

    return [kind for kind in below(errors.LigerError) if kind.__module__ == "liger.errors"]


def an_error(kind: type[errors.LigerError]) -> errors.LigerError:
    return kind("it broke; mend it", field="inputs[0]", retry_after_s=1.25)


class FailedCall(grpc.RpcError):
    """What a client sees of a status."""

    def __init__(
        self, code: grpc.StatusCode, details: str | None, trailing: tuple[tuple[str, bytes], ...] = ()
    ) -> None:
        self.code = lambda: code
        self.details = lambda: details
        self.trailing_metadata = lambda: trailing


def call_that_failed_with(error: errors.LigerError) -> FailedCall:
    found = status.to_status(error)
    code = status.STATUS_CODES[type(error)]
    return FailedCall(code, found.message, (("grpc-status-details-bin", found.SerializeToString()),))


@pytest.mark.parametrize("kind", kinds())
def test_every_error_has_a_status_and_a_reason_of_its_own(kind):
    assert kind in status.STATUS_CODES
    assert kind.reason
    assert [other for other in kinds() if other.reason == kind.reason] == [kind]


@pytest.mark.parametrize("kind", kinds())
def test_an_error_comes_back_from_a_call_as_it_was(kind):
    found = status.from_rpc_error(call_that_failed_with(an_error(kind)))

    assert type(found) is kind
    assert (found.message, found.field, found.retry_after_s) == ("it broke; mend it", "inputs[0]", 1.25)


@pytest.mark.parametrize("kind", kinds())
def test_an_error_comes_back_from_a_stream_as_it_was(kind):
    found = status.from_message(status.to_message(an_error(kind)))

    assert type(found) is kind
    assert (found.message, found.field, found.retry_after_s) == ("it broke; mend it", "inputs[0]", 1.25)


def test_what_an_error_does_not_say_is_not_in_its_status():
    found = status.to_status(errors.OverloadedError("full"))

    assert len(found.details) == 1
    info = error_details_pb2.ErrorInfo()
    assert found.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("OVERLOADED", "liger.v1")
    assert status.from_message(status.to_message(errors.OverloadedError("full"))).retry_after_s is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.UnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineError),
        (grpc.StatusCode.CANCELLED, errors.RequestCancelledError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.OverloadedError),
        (grpc.StatusCode.DATA_LOSS, errors.LigerError),
    ],
)
def test_a_status_without_details_is_told_by_its_code(code, kind):
    found = status.from_rpc_error(FailedCall(code, None))

    assert type(found) is kind
    assert found.message == code.name.lower().replace("_", " ")


def test_a_reason_of_a_newer_version_falls_back_to_the_code():
    message = status.to_message(errors.UnavailableError("later"))
    message.reason = "NOT_KNOWN_YET"
    assert type(status.from_message(message)) is errors.UnavailableError
