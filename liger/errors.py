"""Every error that leaves a service, each with a stable reason. `liger.rpc.status` maps them to gRPC status codes.

A message says what is wrong and what mends it. Nothing here imports gRPC, so that pure code can raise these.
"""

from typing import ClassVar


class LigerError(Exception):
    """An error with a stable reason, meant for whoever called.

    Args:
        message: What is wrong and what mends it, one sentence or two.
        field: The request's field at fault, empty if none.
        retry_after_s: When trying again may succeed; None if it will not.
    """

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, field: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s


class InvalidRequestError(LigerError):
    """The request cannot be right in any state of the system."""

    reason = "INVALID_REQUEST"


class InputTooLongError(InvalidRequestError):
    """A prompt or input does not fit the model's context."""

    reason = "INPUT_TOO_LONG"


class UnsupportedTaskError(InvalidRequestError):
    """The model cannot do what was asked."""

    reason = "UNSUPPORTED_TASK"


class NotServedError(LigerError):
    """The contract has it, this version does not do it yet."""

    reason = "NOT_SERVED"


class ModelNotFoundError(LigerError):
    """No group holds the named model."""

    reason = "MODEL_NOT_FOUND"


class RequestNotFoundError(LigerError):
    """No request under way has this id."""

    reason = "REQUEST_NOT_FOUND"


class DuplicateRequestError(LigerError):
    """A request with this id is under way."""

    reason = "DUPLICATE_REQUEST"


class OverloadedError(LigerError):
    """A queue is full; trying again later may succeed."""

    reason = "OVERLOADED"


class DeadlineError(LigerError):
    """The client's deadline passed, or cannot be met."""

    reason = "DEADLINE_EXCEEDED"


class RequestCancelledError(LigerError):
    """The client gave the request up."""

    reason = "CANCELLED"


class UnavailableError(LigerError):
    """A part that is needed is away for now."""

    reason = "UNAVAILABLE"


class StaleFenceError(LigerError):
    """A message was written under a rule that has ended."""

    reason = "STALE_FENCE"


class ScheduleRefusedError(LigerError):
    """A schedule has a gap, an unknown pattern or batch, or another digest than its contents."""

    reason = "SCHEDULE_REFUSED"


class UnauthenticatedError(LigerError):
    """Who calls is not known."""

    reason = "UNAUTHENTICATED"


class PermissionDeniedError(LigerError):
    """Who calls may not do this."""

    reason = "PERMISSION_DENIED"


class GroupFailedError(LigerError):
    """A rank failed and its group's epoch ended."""

    reason = "GROUP_FAILED"


class ConfigError(LigerError):
    """A service or command was configured wrongly."""

    reason = "CONFIG"


class ModelFolderError(LigerError):
    """A model's folder is incomplete, damaged or of a kind that is not served."""

    reason = "MODEL_FOLDER"
