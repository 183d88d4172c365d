"""Which classes of transformers are served: each is a family and the head on it."""

from dataclasses import dataclass
from typing import Final

from worker.shards.families.bert import BERT, ROBERTA
from worker.shards.families.gpt2 import GPT2
from worker.shards.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from worker.shards.families.names import Family
from worker.shards.families.opt import OPT
from worker.shards.spec import HeadKind


@dataclass(frozen=True, slots=True)
class Architecture:
    """A class named in config.json."""

    family: Family
    head: HeadKind


def _decoder(name: str, family: Family, language_head: str = "ForCausalLM") -> dict[str, Architecture]:
    return {
        f"{name}Model": Architecture(family, HeadKind.NONE),
        f"{name}{language_head}": Architecture(family, HeadKind.LANGUAGE),
        f"{name}ForSequenceClassification": Architecture(family, HeadKind.CLASSIFIER),
    }


def _encoder(name: str, family: Family) -> dict[str, Architecture]:
    return {
        f"{name}Model": Architecture(family, HeadKind.NONE),
        f"{name}ForMaskedLM": Architecture(family, HeadKind.NONE),  # its head is not read: embeddings only
        f"{name}ForSequenceClassification": Architecture(family, HeadKind.CLASSIFIER),
    }


ARCHITECTURES: Final[dict[str, Architecture]] = (
    _decoder("Llama", LLAMA)
    | _decoder("Mistral", MISTRAL)
    | _decoder("Qwen2", QWEN2)
    | _decoder("Qwen3", QWEN3)
    | _decoder("OPT", OPT)
    | _decoder("GPT2", GPT2, "LMHeadModel")
    | _encoder("Bert", BERT)
    | _encoder("Roberta", ROBERTA)
    | _encoder("XLMRoberta", ROBERTA)
)
