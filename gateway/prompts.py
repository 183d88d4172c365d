"""Prompts and texts to token ids, by the model's tokenizer and template."""

import asyncio

from gateway.assets import Assets
from gateway.requests import Conversation, Generation, TokenIds, Tokenization
from gateway.tokenizer import INLINE_CHARACTERS
from liger.client.results import TokenizeReply


async def prompt_ids(generation: Generation, assets: Assets) -> TokenIds:
    """Return a generation's prompt as token ids; it may turn out empty.

    Raises:
        ModelFolderError: The model has no tokenizer or template for this prompt.
        InvalidRequestError: The template refuses the conversation.
    """
    match generation.prompt:
        case str(text):
            tokenizer = assets.need_tokenizer(generation.model.name)
            [encoded] = await tokenizer.encode([text], add_special_tokens=True)
            return tuple(encoded.token_ids)
        case Conversation() as conversation:
            return await _chat_ids(conversation, assets, generation.model.name)
        case ids:
            return ids


async def tokenize(tokenization: Tokenization, assets: Assets) -> TokenizeReply:
    """Return a text's or conversation's tokens and their spellings.

    Raises:
        ModelFolderError: The model has no tokenizer or template.
        InvalidRequestError: The template refuses the conversation.
    """
    tokenizer = assets.need_tokenizer(tokenization.model.name)
    if isinstance(tokenization.content, str):
        adds = tokenization.add_special_tokens
        [encoded] = await tokenizer.encode([tokenization.content], add_special_tokens=adds)
        ids = tuple(encoded.token_ids)
    else:
        ids = await _chat_ids(tokenization.content, assets, tokenization.model.name)
    return TokenizeReply(token_ids=ids, tokens=tuple(map(tokenizer.spelling, ids)))


async def _chat_ids(conversation: Conversation, assets: Assets, model: str) -> TokenIds:
    turns = conversation.turns
    template, tokenizer = assets.need_template(model), assets.need_tokenizer(model)
    is_long = sum(len(turn.content) for turn in turns) > INLINE_CHARACTERS
    text = await asyncio.to_thread(template.render, turns) if is_long else template.render(turns)
    [encoded] = await tokenizer.encode([text], add_special_tokens=False)  # the template writes them itself
    return tuple(encoded.token_ids)
