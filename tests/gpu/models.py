"""Models of the device's tests."""

from pathlib import Path

import torch


def wide_llama(folder: Path) -> Path:
    """Save a Llama whose heads fit the libraries' kernels; return the folder."""
    import transformers

    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=131,
        hidden_size=256,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=64,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder
