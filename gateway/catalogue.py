"""The models of the cluster, as the controller last told them."""

import difflib
from collections.abc import Iterable
from typing import Final

from gateway.model import Served
from liger.errors import InvalidRequestError, ModelNotFoundError, UnavailableError

RETRY_AFTER_S: Final = 2.0
SHOWN_NAMES: Final = 20


class Catalogue:
    """Finds models by name; empty until the controller has spoken."""

    def __init__(self) -> None:
        self._served: dict[str, Served] | None = None

    def replace(self, served: Iterable[Served]) -> None:
        """Take the controller's newest word."""
        self._served = {entry.model.name: entry for entry in served}

    def forget(self) -> None:
        """Hold nothing for true until the controller speaks again."""
        self._served = None

    def all(self) -> list[Served]:
        """Return all models, by name.

        Raises:
            UnavailableError: The controller has not spoken.
        """
        return [entry for _, entry in sorted(self._known().items())]

    def find(self, name: str) -> Served:
        """Return one model, serving or forming.

        Raises:
            InvalidRequestError: The name is empty.
            ModelNotFoundError: There is none of this name.
            UnavailableError: The controller has not spoken.
        """
        known = self._known()
        if not name:
            raise InvalidRequestError(f"model is empty; {_names(known)}", field="model")
        if name not in known:
            near = difflib.get_close_matches(name[:256], known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ModelNotFoundError(f"no model {_short(name)!r} here; {hint}{_names(known)}", field="model")
        return known[name]

    def find_serving(self, name: str) -> Served:
        """Return one model that answers now.

        Raises:
            InvalidRequestError: The name is empty.
            ModelNotFoundError: There is none of this name.
            UnavailableError: The controller has not spoken, or no group serves the model yet.
        """
        served = self.find(name)
        if served.num_groups == 0:
            raise UnavailableError(
                f"model {name!r} is known, but no group serves it now (its ranks are missing or loading, or it is "
                "drained); try again",
                retry_after_s=RETRY_AFTER_S,
            )
        return served

    def _known(self) -> dict[str, Served]:
        if self._served is None:
            raise UnavailableError(
                "the gateway is not connected to the controller; try again", retry_after_s=RETRY_AFTER_S
            )
        return self._served


def _names(known: Iterable[str]) -> str:
    names = sorted(known)
    if not names:
        return "no models are served"
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"models here: {', '.join(names[:SHOWN_NAMES])}{more}"


def _short(name: str) -> str:
    return name if len(name) <= 64 else name[:61] + "…"
