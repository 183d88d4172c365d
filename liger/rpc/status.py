"""The one table between `liger.errors` and gRPC status codes, with `google.rpc` details (AIP-193)."""

from typing import Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from liger import errors
from liger.v1 import types_pb2

DOMAIN: Final = "liger.v1"

STATUS_CODES: Final[dict[type[errors.LigerError], grpc.StatusCode]] = {
    errors.LigerError: grpc.StatusCode.INTERNAL,
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InputTooLongError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnsupportedTaskError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotServedError: grpc.StatusCode.UNIMPLEMENTED,
    errors.ModelNotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.RequestNotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.DuplicateRequestError: grpc.StatusCode.ALREADY_EXISTS,
    errors.OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.RequestCancelledError: grpc.StatusCode.CANCELLED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.StaleFenceError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ScheduleRefusedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.GroupFailedError: grpc.StatusCode.UNAVAILABLE,
    errors.ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ModelFolderError: grpc.StatusCode.FAILED_PRECONDITION,
}

_BY_REASON: Final = {kind.reason: kind for kind in STATUS_CODES}
_BY_CODE: Final = {
    code_pb2.INVALID_ARGUMENT: errors.InvalidRequestError,
    code_pb2.UNIMPLEMENTED: errors.NotServedError,
    code_pb2.NOT_FOUND: errors.ModelNotFoundError,
    code_pb2.RESOURCE_EXHAUSTED: errors.OverloadedError,
    code_pb2.DEADLINE_EXCEEDED: errors.DeadlineError,
    code_pb2.CANCELLED: errors.RequestCancelledError,
    code_pb2.UNAVAILABLE: errors.UnavailableError,
    code_pb2.FAILED_PRECONDITION: errors.StaleFenceError,
    code_pb2.UNAUTHENTICATED: errors.UnauthenticatedError,
    code_pb2.PERMISSION_DENIED: errors.PermissionDeniedError,
}


def code_of(error: errors.LigerError) -> int:
    """Return the `google.rpc.Code` number of an error."""
    known = next(kind for kind in type(error).__mro__ if kind in STATUS_CODES)
    number: int = STATUS_CODES[known].value[0]
    return number


def to_status(error: errors.LigerError) -> status_pb2.Status:
    """Return the error as a `google.rpc.Status` with ErrorInfo, and BadRequest and RetryInfo where they apply."""
    status = status_pb2.Status(code=code_of(error), message=error.message)
    details: list[error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    ]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=Duration(nanos=0, seconds=0)))
        details[-1].retry_delay.FromNanoseconds(round(error.retry_after_s * 1e9))
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def from_rpc_error(error: grpc.RpcError) -> errors.LigerError:
    """Return what a failed call meant, as the error that the other side raised."""
    status = rpc_status.from_call(error)
    code, details = error.code(), error.details()
    if status is None:
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return errors.NotServedError("what answers there does not know this call; is it another service's port?")
        kind = _BY_CODE.get(code.value[0], errors.LigerError)
        return kind(details or code.name.lower().replace("_", " "))
    reason, field, retry_after_s = "", "", None
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad) and bad.field_violations:
            field = bad.field_violations[0].field
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    kind = _BY_REASON.get(reason) or _BY_CODE.get(status.code, errors.LigerError)
    return kind(status.message, field=field, retry_after_s=retry_after_s)


def to_message(error: errors.LigerError) -> types_pb2.ErrorStatus:
    """Return the error as it travels inside a stream."""
    return types_pb2.ErrorStatus(
        code=code_of(error),
        message=error.message,
        reason=error.reason,
        field=error.field,
        retry_after_s=error.retry_after_s,
    )


def from_message(message: types_pb2.ErrorStatus) -> errors.LigerError:
    """Return the error that a stream carried."""
    kind = _BY_REASON.get(message.reason) or _BY_CODE.get(message.code, errors.LigerError)
    retry_after_s = message.retry_after_s if message.HasField("retry_after_s") else None
    return kind(message.message, field=message.field, retry_after_s=retry_after_s)
