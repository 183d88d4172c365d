"""Small tokenizers, and the folder files around them, as ranks give them to gateways."""

import json
import string
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog. The capital of France is Paris.",
    "red, green and blue are colours; stop strings END here",
    "你好世界 你好 世界 日本語 こんにちは",
    "emoji 😀😀 👩‍👩‍👧 🇫🇷 naïve café",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@cache
def byte_level() -> Tokenizer:
    """Return a byte-level BPE tokenizer (GPT-2's kind); emoji and rare characters are split over tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@cache
def byte_fallback() -> Tokenizer:
    """Return a tokenizer of SentencePiece's kind: words with a "▁", and bytes for what it has no piece for."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "▁a", "a", "b", "▁你", "你", "好", "▁the", "."]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=[("▁", "a"), ("▁", "你")],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return tokenizer


@cache
def word_level() -> Tokenizer:
    """Return a tokenizer of BERT's kind: [CLS] and [SEP], segment ids for pairs; its file asks for cuts and padding."""
    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", *string.ascii_lowercase[:20]]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in words[:4]])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=16, pad_id=1, pad_token="[PAD]")
    return tokenizer


def files(
    tokenizer: Tokenizer | None = None, *, generation: dict[str, Any] | None = None, **settings: Any
) -> dict[str, bytes]:
    """Return a folder's files: the tokenizer, its settings, the settings of generation."""
    found = {"tokenizer_config.json": json.dumps(settings).encode()}
    if tokenizer is not None:
        found["tokenizer.json"] = tokenizer.to_str().encode()
    if generation is not None:
        found["generation_config.json"] = json.dumps(generation).encode()
    return found
