import json

import gguf
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from liger.models.conversion.container import GgufFile
from liger.models.conversion.sentencepiece import merges_by_score
from liger.models.conversion.tokenizer import tokenizer, tokenizer_config
from tests.unit.liger.models.gguf_files import write_gguf

TEXTS = [
    "The quick brown fox's 2 dogs can't jump 1234 times.",
    "naïve café 你好 🎉 and  two  spaces\n\n\tdef f(x):\n    return x ** 2",
    " leading space, trailing space ",
    "<|end|>The end<|end|>",
]


def smollm_like() -> Tokenizer:
    """Train the kind of tokenizer that SmolLM has."""
    made = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    )
    return made


def write_vocabulary(file, made: Tokenizer, **settings) -> GgufFile:
    model = json.loads(made.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [" ".join(merge) for merge in model["merges"]]
    return GgufFile.open(write_gguf(file, tokens=tokens, merges=merges, **settings))


@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_vocabularies_give_their_sources_ids_and_text(tmp_path, text):
    made = smollm_like()
    converted = Tokenizer.from_str(json.dumps(tokenizer(write_vocabulary(tmp_path / "a.gguf", made))))

    assert converted.encode(text).ids == made.encode(text).ids
    assert converted.decode(converted.encode(text).ids, skip_special_tokens=False) == text


def test_llama_3_cuts_digits_by_three_and_begins_texts(tmp_path):
    source = write_vocabulary(tmp_path / "a.gguf", smollm_like(), pre="llama-bpe", extra={BOS: 0})
    converted = Tokenizer.from_str(json.dumps(tokenizer(source)))

    encoded = converted.encode("1234 x")
    assert encoded.tokens[0] == "<|end|>"
    cuts = [text for text, _ in converted.pre_tokenizer.pre_tokenize_str("1234567 I'll")]
    assert cuts == ["123", "456", "7", "ĠI", "'ll"]


def test_gpt_2_keeps_digits_together(tmp_path):
    source = write_vocabulary(tmp_path / "a.gguf", smollm_like(), pre="gpt-2")
    converted = Tokenizer.from_str(json.dumps(tokenizer(source)))

    assert [text for text, _ in converted.pre_tokenizer.pre_tokenize_str("in 2024")] == ["in", "Ġ2024"]


def test_chat_template_and_special_tokens_reach_the_settings(tmp_path):
    template = "{{ messages[0]['content'] }}"
    source = write_vocabulary(tmp_path / "a.gguf", smollm_like(), extra={"tokenizer.chat_template": template})

    settings = tokenizer_config(source)

    assert settings["chat_template"] == template
    assert settings["eos_token"] == "<|end|>"
    assert settings["add_bos_token"] is False


def test_sentencepiece_vocabularies_join_by_score_and_fall_back_to_bytes(tmp_path):
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [2, 3, 3, *[6] * 256]
    scores = [0.0] * len(pieces)
    learned = ["in", "▁t", "er", "▁th", "ter", "▁the", "▁inter"]
    for rank, piece in enumerate([*learned, *"▁inther."]):
        pieces.append(piece)
        kinds.append(1)
        scores.append(-float(rank))
    source = write_sentencepiece(tmp_path / "a.gguf", pieces, kinds, scores)
    converted = Tokenizer.from_str(json.dumps(tokenizer(source)))

    encoded = converted.encode("the inter. é")
    assert encoded.tokens == ["<s>", "▁the", "▁", "in", "ter", ".", "▁", "<0xC3>", "<0xA9>"]
    assert converted.decode(encoded.ids) == "the inter. é"


def test_merges_are_ordered_by_score():
    vocabulary = {"a": 0, "b": 1, "ab": 2, "aa": 3, "aab": 4}
    merges = merges_by_score(vocabulary, [0.0, 0.0, -2.0, -1.0, -3.0])
    assert merges == [["a", "a"], ["a", "b"], ["a", "ab"], ["aa", "b"]]


BOS = "tokenizer.ggml.bos_token_id"


def write_sentencepiece(file, pieces, kinds, scores) -> GgufFile:
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    writer.add_token_scores(scores)
    writer.add_bos_token_id(1)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return GgufFile.open(file)
