"""A discriminative request's inputs to token ids that fit the model."""

from collections.abc import Sequence

from gateway.assets import Assets
from gateway.model import Model
from gateway.requests import Content, TextPair, TokenIds
from gateway.sizes import check_call_tokens, check_text, most_characters
from gateway.tokenizer import Encoded
from gateway.work import EncodeItem
from liger.errors import InputTooLongError, InvalidRequestError


async def single_items(
    contents: Sequence[Content], model: Model, assets: Assets, field: str, *, truncate: bool
) -> list[EncodeItem]:
    """Return each input's tokens.

    Raises:
        InputTooLongError: One does not fit the model and is not to be cut.
        InvalidRequestError: One has no tokens.
        ModelFolderError: There is text, but no tokenizer.
    """
    texts = [content for content in contents if isinstance(content, str)]
    encoded: list[Encoded] = []
    if texts:
        tokenizer = assets.need_tokenizer(model.name)
        if truncate:
            encoded = await tokenizer.encode_within(_readable(texts, model), model.max_length)
        else:
            _check_texts(contents, model, field)
            encoded = await tokenizer.encode(texts, add_special_tokens=True)
    remaining = iter(encoded)
    items = [
        _item(next(remaining), model) if isinstance(content, str) else _given(content, model, truncate=truncate)
        for content in contents
    ]
    _check_lengths(items, model, field)
    return items


async def pair_items(
    pairs: Sequence[TextPair], model: Model, assets: Assets, field: str, *, truncate: bool
) -> list[EncodeItem]:
    """Return the tokens of pairs of texts, joined by the model's own rule, with segment ids if the model has them.

    Raises:
        InputTooLongError: A pair does not fit the model and is not to be cut.
        ModelFolderError: There is no tokenizer.
    """
    tokenizer = assets.need_tokenizer(model.name)
    firsts, seconds = [first for first, _ in pairs], [second for _, second in pairs]
    if truncate:
        firsts, seconds = _readable(firsts, model), _readable(seconds, model)
    else:
        _check_texts(firsts, model, field)
        _check_texts(seconds, model, field)
    encoded = await tokenizer.encode_pairs(firsts, seconds, model.max_length if truncate else None)
    items = [_item(tokens, model) for tokens in encoded]
    _check_lengths(items, model, field)
    return items


async def score_items(
    pairs: Sequence[tuple[Content, Content]], model: Model, assets: Assets, field: str
) -> list[EncodeItem]:
    """Return each context and continuation as one input whose continuation is scored.

    They are tokenised apart, so that the border between them is that of the client: the context with special tokens,
    the continuation without.

    Raises:
        InputTooLongError: An item does not fit the model.
        InvalidRequestError: A continuation has no tokens, or one token and nothing before it.
        ModelFolderError: There is text, but no tokenizer.
    """
    _check_texts([context for context, _ in pairs], model, field)
    _check_texts([continuation for _, continuation in pairs], model, field)
    contexts = await _tokens([context for context, _ in pairs], model, assets, add_special_tokens=True)
    continuations = await _tokens([continuation for _, continuation in pairs], model, assets, add_special_tokens=False)
    items = []
    for index, (context, continuation) in enumerate(zip(contexts, continuations, strict=True)):
        place = f"{field}[{index}].continuation"
        if not continuation:
            raise InvalidRequestError(f"{place} has no tokens; give some text", field=place)
        if len(context) + len(continuation) == 1:
            raise InvalidRequestError(
                f"{place} is one token without a context, which has no likelihood; give a context", field=place
            )
        items.append(EncodeItem(token_ids=(*context, *continuation), score_from=max(1, len(context))))
    _check_lengths(items, model, field)
    return items


async def label_items(
    inputs: Sequence[Content], labels: Sequence[str], model: Model, assets: Assets, *, truncate: bool
) -> list[EncodeItem]:
    """Return each input followed by each label, whose likelihood is asked; an input's labels stand together.

    A space is put before a label unless the input is text that ends in white space.

    Raises:
        InputTooLongError: An input does not fit the model with its labels and is not to be cut, or all bring too much.
        InvalidRequestError: An input or a label has no tokens.
        ModelFolderError: There is no tokenizer.
    """
    field = "classify.inputs"
    if truncate:
        inputs = [content[: most_characters(model)] for content in inputs]
    _check_texts(inputs, model, field)
    _check_texts(labels, model, "classify.labels")
    contexts = await _tokens(inputs, model, assets, add_special_tokens=True)
    spaced = await _label_tokens([f" {label}" for label in labels], model, assets)
    bare = await _label_tokens(labels, model, assets)
    check_call_tokens(len(labels) * sum(map(len, contexts)) + len(contexts) * sum(map(len, spaced)), field)
    items = []
    for index, (content, context) in enumerate(zip(inputs, contexts, strict=True)):
        if not context:
            raise InvalidRequestError(f"{field}[{index}] has no tokens; give some text", field=f"{field}[{index}]")
        endings = bare if isinstance(content, str) and content[-1:].isspace() else spaced
        room = model.max_length - max(map(len, endings))
        kept = context[: max(room, 0)] if truncate else context
        _check_room(len(kept), room, model, f"{field}[{index}]")
        items += [EncodeItem(token_ids=(*kept, *ending), score_from=len(kept)) for ending in endings]
    return items


async def _label_tokens(texts: Sequence[str], model: Model, assets: Assets) -> list[TokenIds]:
    found = await _tokens(texts, model, assets, add_special_tokens=False)
    for index, tokens in enumerate(found):
        if not tokens:
            place = f"classify.labels[{index}]"
            raise InvalidRequestError(f"{place} has no tokens; give some text", field=place)
    return found


def _check_room(num_tokens: int, room: int, model: Model, field: str) -> None:
    if room < 1:
        raise InputTooLongError(
            f"the longest label leaves no room for an input in the {model.max_length} tokens of model {model.name!r}",
            field="classify.labels",
        )
    if num_tokens > room:
        raise InputTooLongError(
            f"{field} has {num_tokens} tokens, and model {model.name!r} takes {model.max_length} with the longest "
            "label; shorten it, or set truncate",
            field=field,
        )


async def _tokens(
    contents: Sequence[Content], model: Model, assets: Assets, *, add_special_tokens: bool
) -> list[TokenIds]:
    texts = [content for content in contents if isinstance(content, str)]
    encoded: list[Encoded] = []
    if texts:
        tokenizer = assets.need_tokenizer(model.name)
        encoded = await tokenizer.encode(texts, add_special_tokens=add_special_tokens)
    remaining = iter(encoded)
    return [tuple(next(remaining).token_ids) if isinstance(content, str) else content for content in contents]


def _readable(texts: Sequence[str], model: Model) -> list[str]:
    return [text[: most_characters(model)] for text in texts]


def _check_texts(contents: Sequence[Content], model: Model, field: str) -> None:
    for index, content in enumerate(contents):
        if isinstance(content, str):
            check_text(content, model, f"{field}[{index}]")


def _item(encoded: Encoded, model: Model) -> EncodeItem:
    has_types = model.num_token_types > 1 and any(encoded.token_type_ids)
    return EncodeItem(token_ids=encoded.token_ids, token_type_ids=encoded.token_type_ids if has_types else ())


def _given(ids: TokenIds, model: Model, *, truncate: bool) -> EncodeItem:
    return EncodeItem(token_ids=ids[: model.max_length] if truncate else ids)


def _check_lengths(items: Sequence[EncodeItem], model: Model, field: str) -> None:
    for index, item in enumerate(items):
        place = f"{field}[{index}]"
        if not item.token_ids:
            raise InvalidRequestError(f"{place} has no tokens; give some text", field=place)
        if len(item.token_ids) > model.max_length:
            raise InputTooLongError(
                f"{place} has {len(item.token_ids)} tokens and model {model.name!r} takes {model.max_length}; "
                "shorten it, or set truncate where the task allows it",
                field=place,
            )
