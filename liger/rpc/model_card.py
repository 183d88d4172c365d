"""A model's card as a message, and back."""

from liger.domain import ModelCard, Pooling, Task
from liger.errors import InvalidRequestError
from liger.v1 import types_pb2


def from_card(card: ModelCard) -> types_pb2.ModelInfo:
    """Return a card as a message."""
    return types_pb2.ModelInfo(
        name=card.name,
        architecture=card.architecture,
        tasks=[types_pb2.Task.ValueType(task) for task in card.tasks],
        max_length=card.max_length,
        vocabulary_size=card.vocabulary_size,
        hidden_size=card.hidden_size,
        num_layers=card.num_layers,
        labels=card.labels,
        default_pooling=types_pb2.Pooling.ValueType(card.default_pooling or 0),
        default_normalize=card.default_normalize,
        eos_token_ids=card.eos_token_ids,
        dtype=card.dtype,
        fingerprint=card.fingerprint,
        multi_label=card.multi_label,
        num_token_types=card.num_token_types,
    )


def to_card(message: types_pb2.ModelInfo) -> ModelCard:
    """Return the card of a message.

    Raises:
        InvalidRequestError: It has no name, no task or no room for a token.
    """
    known = [Task(task) for task in message.tasks if task in set(map(int, Task))]
    if not message.name or not known or message.max_length < 1 or message.vocabulary_size < 1:
        raise InvalidRequestError("a model needs a name, a known task, a length and a vocabulary", field="model")
    if message.default_pooling and message.default_pooling not in set(map(int, Pooling)):
        raise InvalidRequestError("the default pooling is not one that is known", field="model.default_pooling")
    return ModelCard(
        name=message.name,
        architecture=message.architecture,
        tasks=tuple(known),
        max_length=message.max_length,
        vocabulary_size=message.vocabulary_size,
        hidden_size=message.hidden_size,
        num_layers=message.num_layers,
        labels=tuple(message.labels),
        default_pooling=Pooling(message.default_pooling) if message.default_pooling else None,
        default_normalize=message.default_normalize,
        eos_token_ids=tuple(message.eos_token_ids),
        dtype=message.dtype,
        fingerprint=message.fingerprint,
        multi_label=message.multi_label,
        num_token_types=message.num_token_types,
    )
