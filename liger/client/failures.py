"""Failed calls to the errors they mean."""

import grpc
from grpc_status import rpc_status

from liger.errors import LigerError, UnavailableError
from liger.rpc.status import from_rpc_error


def meaning(error: grpc.RpcError, address: str) -> LigerError:
    """Return the error that a failed call to the gateway at `address` means."""
    if error.code() is grpc.StatusCode.UNAVAILABLE and rpc_status.from_call(error) is None:
        return UnavailableError(
            f"no gateway answers at {address}: it does not run, went away, or the address is wrong ({error.details()})",
            retry_after_s=1.0,
        )
    return from_rpc_error(error)
