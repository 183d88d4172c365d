"""Makes tokenizer.json and tokenizer_config.json of a GGUF file's vocabulary.

Two kinds: byte-level BPE with merges ("gpt2": GPT-2, SmolLM, Llama 3), and SentencePiece BPE with scores ("llama":
Llama 2, Mistral, TinyLlama). How text is cut before merging is named by `tokenizer.ggml.pre`; unknown names are
refused, because a wrong cut gives plausible but wrong ids.
"""

from typing import Any, Final

from liger.models.conversion.container import GgufFile
from liger.models.conversion.sentencepiece import merges_by_score

_CONTROL: Final = 3
_USER_DEFINED: Final = 4

_SPACE: Final = "\u2581"  # SentencePiece's visible space
_BYTE_LEVEL: Final = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_LLAMA3_CUT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_CUTS: Final[dict[str, list[dict[str, Any]]]] = {
    "gpt-2": [_BYTE_LEVEL],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
    "llama-bpe": [
        {"type": "Split", "pattern": {"Regex": _LLAMA3_CUT}, "behavior": "Isolated", "invert": False},
        {**_BYTE_LEVEL, "use_regex": False},
    ],
}


def tokenizer(file: GgufFile) -> dict[str, Any]:
    """Return the tokenizer.json.

    Raises:
        ModelFolderError: The vocabulary is of a kind that is not converted, or inconsistent.
    """
    kind = file.need("tokenizer.ggml.model")
    parts = {"gpt2": _byte_level, "llama": _sentence_piece}
    if kind not in parts:
        raise file.refuse(f"has a vocabulary of kind {kind}, which is not converted")
    if len(vocabulary := _vocabulary(file)) != len(file.need("tokenizer.ggml.tokens")):
        raise file.refuse("has a vocabulary that spells two ids alike")
    common = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": _added_tokens(file)}
    return common | parts[kind](file, vocabulary) | {"post_processor": _post_processor(file)}


def tokenizer_config(file: GgufFile) -> dict[str, Any]:
    """Return the tokenizer_config.json, with the chat template where there is one."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": int(file.need("llama.context_length")),
        "clean_up_tokenization_spaces": False,
        "add_bos_token": _adds_bos(file),
        **special_tokens(file),
    }
    template = file.get("tokenizer.chat_template")
    return config | ({"chat_template": template} if template else {})


def special_tokens(file: GgufFile) -> dict[str, str]:
    """Return the special_tokens_map.json: which tokens begin, end, pad and stand for what is unknown."""
    names = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    ids = {name: file.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    tokens = file.need("tokenizer.ggml.tokens")
    return {name: tokens[int(token_id)] for name, token_id in ids.items() if token_id is not None}


def _vocabulary(file: GgufFile) -> dict[str, int]:
    return {token: token_id for token_id, token in enumerate(file.need("tokenizer.ggml.tokens"))}


def _byte_level(file: GgufFile, vocabulary: dict[str, int]) -> dict[str, Any]:
    cut = {"default": "gpt-2", "llama3": "llama-bpe", "llama-v3": "llama-bpe"}.get(pre := _cut_name(file), pre)
    if cut not in _CUTS:
        raise file.refuse(f"cuts text as {pre} does, which is not converted (known: {', '.join(_CUTS)})")
    merges = [merge.split(" ", 1) for merge in file.need("tokenizer.ggml.merges")]
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _CUTS[cut]},
        "decoder": _BYTE_LEVEL,
        "model": _bpe(vocabulary, merges, ignore_merges=cut == "llama-bpe"),
    }


def _sentence_piece(file: GgufFile, vocabulary: dict[str, int]) -> dict[str, Any]:
    prefix = bool(file.get("tokenizer.ggml.add_space_prefix", True))
    merges = merges_by_score(vocabulary, file.need("tokenizer.ggml.scores"))
    unknown = file.need("tokenizer.ggml.tokens")[int(file.get("tokenizer.ggml.unknown_token_id", 0))]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    restore = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    prepend = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [restore, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": _bpe(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True),
    }


def _bpe(vocabulary: dict[str, int], merges: list[list[str]], **settings: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    return defaults | settings | {"vocab": vocabulary, "merges": merges}


def _added_tokens(file: GgufFile) -> list[dict[str, Any]]:
    """Return the tokens that are found in text as a whole: control tokens, and those of the model's makers."""
    tokens, kinds = file.need("tokenizer.ggml.tokens"), file.need("tokenizer.ggml.token_type")
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": token_id, "content": tokens[token_id], **plain, "special": kind == _CONTROL}
        for token_id, kind in enumerate(kinds)
        if kind in {_CONTROL, _USER_DEFINED}
    ]


def _post_processor(file: GgufFile) -> dict[str, Any] | None:
    """Return what puts the begin token before a text, None where the model wants none."""
    if not _adds_bos(file):
        return None
    bos_id = int(file.need("tokenizer.ggml.bos_token_id"))
    bos = file.need("tokenizer.ggml.tokens")[bos_id]
    begin = {"SpecialToken": {"id": bos, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    special = {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}}
    pair = [begin, first, begin, second]
    return {"type": "TemplateProcessing", "single": [begin, first], "pair": pair, "special_tokens": special}


def _adds_bos(file: GgufFile) -> bool:
    """Tell whether texts begin with the begin token; what the file leaves open is as llama.cpp has it."""
    usual = file.need("tokenizer.ggml.model") == "llama" or _cut_name(file) in {"llama3", "llama-v3", "llama-bpe"}
    return bool(file.get("tokenizer.ggml.add_bos_token", usual))


def _cut_name(file: GgufFile) -> str:
    return str(file.get("tokenizer.ggml.pre", "default"))
