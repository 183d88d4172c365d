"""A model's files, fetched from a rank through the controller, so that gateways need no model folder."""

from typing import Final

import grpc.aio

from liger.errors import UnavailableError
from liger.rpc.channel import open_channel
from liger.rpc.status import from_rpc_error
from liger.v1.controller_pb2 import GetModelAssetsRequest
from liger.v1.controller_pb2_grpc import ControllerServiceStub

FETCH_LIMIT_S: Final = 60.0
MAX_BYTES: Final = 256 * 1024 * 1024  # of all of a model's files


class ModelFiles:
    """Fetches files.

    Args:
        address: host:port of the controller.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    async def fetch(self, model: str) -> dict[str, bytes]:
        """Return the files of a model that gateways need, by name.

        Raises:
            UnavailableError: The controller or the model's ranks are away, or the files are too large.
            ModelNotFoundError: No rank has this model any more.
        """
        files: dict[str, bytearray] = {}
        request = GetModelAssetsRequest(model=model)
        try:
            async with open_channel(self._address) as channel:
                async for part in ControllerServiceStub(channel).GetModelAssets(request, timeout=FETCH_LIMIT_S):
                    files.setdefault(part.asset.name, bytearray()).extend(part.asset.content)
                    if sum(map(len, files.values())) > MAX_BYTES:
                        raise UnavailableError(f"the files of model {model!r} exceed {MAX_BYTES:,} bytes")
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return {name: bytes(content) for name, content in files.items()}
