"""Keeps this worker registered with the controller: a lease, renewed; registered anew when it is lost."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Final

import grpc
import grpc.aio

from liger.errors import ConfigError
from liger.rpc.channel import open_channel
from liger.v1 import controller_pb2, controller_pb2_grpc

_LOG: Final = logging.getLogger(__name__)

CALL_LIMIT_S: Final = 5.0
RETRY_S: Final = 1.0


class Registration:
    """This worker's lease.

    Args:
        controller: host:port.
        request: What the worker says of itself.
    """

    def __init__(self, controller: str, request: controller_pb2.RegisterRequest) -> None:
        self._address = controller
        self._request = request
        self._channel = open_channel(controller)
        self._stub = controller_pb2_grpc.ControllerServiceStub(self._channel)
        self._lease_id: int | None = None
        self._is_told = False

    async def run(self) -> None:
        """Hold a lease for as long as the worker runs.

        Raises:
            ConfigError: The controller refuses this worker.
        """
        while True:
            ttl_s: float | None = await self._register()
            while ttl_s is not None:
                await asyncio.sleep(ttl_s / 3)
                ttl_s = await self._renew(ttl_s)

    async def drain_group(self, limit_s: float) -> None:
        """Let the group finish what is under way; the lease must be renewed meanwhile. No controller is fine."""
        drain = controller_pb2.DrainRequest(group=self._request.group, timeout_s=limit_s)
        await self._tell("the group was not drained", self._stub.Drain(drain, timeout=limit_s + CALL_LIMIT_S))

    async def revoke(self) -> None:
        """Give the lease back, if there is one; `run` must have ended. No controller is fine."""
        if self._lease_id is not None:
            revoke = controller_pb2.RevokeLeaseRequest(lease_id=self._lease_id)
            self._lease_id = None
            await self._tell("the lease was not given back", self._stub.RevokeLease(revoke, timeout=CALL_LIMIT_S))

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def _register(self) -> float:
        while True:
            try:
                response = await self._stub.Register(self._request, timeout=CALL_LIMIT_S)
            except grpc.aio.AioRpcError as error:
                if error.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION}:
                    raise ConfigError(f"the controller refuses this worker: {error.details()}") from error
                self._tell_waiting(error)
                await asyncio.sleep(RETRY_S)
                continue
            self._lease_id, self._is_told = response.lease_id, False
            _LOG.info("registered", extra={"controller": self._address, "lease_id": response.lease_id})
            return response.ttl_s

    async def _renew(self, ttl_s: float) -> float | None:
        """Return the lease's new time to live, or None if it must be registered anew."""
        assert self._lease_id is not None, "registered before"
        try:
            request = controller_pb2.RenewLeaseRequest(lease_id=self._lease_id)
            response = await self._stub.RenewLease(request, timeout=min(CALL_LIMIT_S, ttl_s / 3))
        except grpc.aio.AioRpcError as error:
            _LOG.warning("the lease was not renewed", extra={"error": error.details()})
            return None
        return response.ttl_s

    async def _tell(self, failure: str, call: Awaitable[object]) -> None:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            _LOG.warning(failure, extra={"error": error.details()})

    def _tell_waiting(self, error: grpc.aio.AioRpcError) -> None:
        if not self._is_told:
            _LOG.warning("waiting for the controller", extra={"controller": self._address, "error": error.details()})
            self._is_told = True
