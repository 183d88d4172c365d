"""The names that configurations give to activations."""

from typing import Final

from worker.shards.settings import Settings
from worker.shards.spec import ActivationKind

_KINDS: Final = {
    "silu": ActivationKind.SILU,
    "swish": ActivationKind.SILU,
    "gelu": ActivationKind.GELU,
    "gelu_python": ActivationKind.GELU,
    "gelu_new": ActivationKind.GELU_TANH,
    "gelu_fast": ActivationKind.GELU_TANH,
    "gelu_pytorch_tanh": ActivationKind.GELU_TANH,
    "relu": ActivationKind.RELU,
}


def read_activation(settings: Settings, name: str, default: str) -> ActivationKind:
    """Read which activation a setting names.

    Raises:
        ModelFolderError: It is not one of those served.
    """
    kind = _KINDS.get(settings.text(name, default))
    if kind is None:
        raise settings.wrong(name, f"must be one of {', '.join(_KINDS)} to be served")
    return kind
