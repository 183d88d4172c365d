"""Profiles on disk: one file a key, whole or not there."""

import logging
import tempfile
from hashlib import blake2b
from pathlib import Path
from typing import Final

from google.protobuf import json_format

from liger.errors import InvalidRequestError
from liger.profile import ProfileTable
from liger.rpc.profile import from_profile, to_profile
from liger.v1 import worker_pb2

_LOG: Final = logging.getLogger(__name__)


class ProfileStore:
    """The profiles in a folder.

    Args:
        folder: Made when something is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: str) -> ProfileTable | None:
        """Return the profile with a key; None if there is none. One that cannot be read is told of and left out."""
        path = self._path(key)
        try:
            message = json_format.Parse(path.read_text(encoding="utf-8"), worker_pb2.ProfileTable())
            table = to_profile(message)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, json_format.ParseError, InvalidRequestError) as error:
            _LOG.warning("the profile %s cannot be read, so it is measured again: %s", path, error)
            return None
        if table.key != key:
            _LOG.warning("the profile %s is of something else, so it is measured again", path)
            return None
        return table

    def keep(self, table: ProfileTable) -> None:
        """Write a profile, in place of an older one with its key; a disk that refuses it is told of."""
        path = self._path(table.key)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._folder, encoding="utf-8", delete=False) as file:
                file.write(_text(table))
            Path(file.name).replace(path)
        except OSError as error:
            _LOG.warning("the profile %s cannot be kept, so it is measured at every start: %s", path, error)

    def _path(self, key: str) -> Path:
        return self._folder / f"{blake2b(key.encode(), digest_size=16).hexdigest()}.json"


def table_digest(table: ProfileTable | None) -> int:
    """Return a number that tells tables apart, below 2^56; 0 for none."""
    if table is None:
        return 0
    return int.from_bytes(blake2b(_text(table).encode(), digest_size=7).digest(), "little") or 1


def _text(table: ProfileTable) -> str:
    return json_format.MessageToJson(from_profile(table), indent=1, sort_keys=True)
