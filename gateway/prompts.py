"""Prompts and texts to token ids, by the model's tokenizer and template."""

import asyncio

from gateway.assets import Assets
from gateway.requests import Conversation, Generation, TokenIds, Tokenization
from gateway.sizes import check_text
from gateway.tokenizer import INLINE_CHARACTERS
from liger.client.results import TokenizeReply


async def prompt_ids(generation: Generation, assets: Assets) -> TokenIds:
    """Return a generation's prompt as token ids; it may turn out empty.

    Raises:
        ModelFolderError: The model has no tokenizer or template for this prompt.
        InvalidRequestError: The template refuses the conversation.
        InputTooLongError: The text cannot fit the model's context.
    """
    match generation.prompt:
        case str(text):
            is_chat = False
        case Conversation() as conversation:
            text, is_chat = await _laid_out(conversation, assets, generation.model.name), True
        case ids:
            return ids
    check_text(text, generation.model, generation.prompt_field)
    return await _ids(text, assets, generation.model.name, add_special_tokens=not is_chat)


async def tokenize(tokenization: Tokenization, assets: Assets) -> TokenizeReply:
    """Return a text's or conversation's tokens and their spellings.

    Raises:
        ModelFolderError: The model has no tokenizer or template.
        InvalidRequestError: The template refuses the conversation.
    """
    content, model, adds = tokenization.content, tokenization.model.name, tokenization.add_special_tokens
    if isinstance(content, Conversation):
        content, adds = await _laid_out(content, assets, model), False
    ids = await _ids(content, assets, model, add_special_tokens=adds)
    return TokenizeReply(token_ids=ids, tokens=tuple(map(assets.need_tokenizer(model).spelling, ids)))


async def _laid_out(conversation: Conversation, assets: Assets, model: str) -> str:
    """Return a conversation as the text that the template makes of it, special tokens and all."""
    template, turns = assets.need_template(model), conversation.turns
    is_long = sum(len(turn.content) for turn in turns) > INLINE_CHARACTERS
    return await asyncio.to_thread(template.render, turns) if is_long else template.render(turns)


async def _ids(text: str, assets: Assets, model: str, *, add_special_tokens: bool) -> TokenIds:
    tokenizer = assets.need_tokenizer(model)
    [encoded] = await tokenizer.encode([text], add_special_tokens=add_special_tokens)
    return tuple(encoded.token_ids)
