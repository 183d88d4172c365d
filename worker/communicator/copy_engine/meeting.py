"""How ranks that share memory tell one another where it is: keys in their epoch's store."""

from typing import Any, Final

import torch.distributed

from liger.errors import GroupFailedError

_DIST: Final[Any] = torch.distributed  # torch's stubs leave the stores out


class Meeting:
    """Ranks of one node that open memory together.

    Args:
        store: Keys of this group and epoch alone.
        rank: This rank's place in the group.
        world_size: Ranks of the group.
    """

    def __init__(self, store: Any, *, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self._store = store

    def inner(self, name: str) -> "Meeting":
        """Return a meeting of the same ranks with keys of its own."""
        return Meeting(_DIST.PrefixStore(name, self._store), rank=self.rank, world_size=self.world_size)

    def tell(self, name: str, value: str) -> list[str]:
        """Return what all ranks say under a name, in rank order; nobody goes on before all have.

        Raises:
            GroupFailedError: One did not come in time.
        """
        try:
            self._store.set(f"{name}/{self.rank}", value)
            return [self._store.get(f"{name}/{rank}").decode() for rank in range(self.world_size)]
        except RuntimeError as error:
            raise GroupFailedError(f"the ranks could not open memory together: {error}") from error

    def agree(self, name: str, *, is_well: bool) -> bool:
        """Tell whether all is well with every rank."""
        return all(answer == "well" for answer in self.tell(name, "well" if is_well else "ill"))
