"""Which attention a rank runs: the fastest that its device, its types and what is installed allow."""

import importlib
import logging
from typing import Final

import torch

from worker.attention.interface import AttentionBackend, AttentionShape
from worker.attention.library.flashinfer import FlashInferAttention, suits_flashinfer
from worker.attention.library.varlen import VarlenAttention, suits_varlen
from worker.attention.library.writing import choose_writer
from worker.attention.reference import ReferenceAttention

_LOG: Final = logging.getLogger(__name__)
_KERNEL_DTYPES: Final = (torch.bfloat16, torch.float16)


def choose_attention(shape: AttentionShape) -> AttentionBackend:
    """Return the best attention there is; libraries are imported only where they may serve.

    Args:
        shape: What is attended with; its block size only where there is a cache.
    """
    reference = ReferenceAttention(shape)
    if shape.device.type != "cuda" or shape.dtype not in _KERNEL_DTYPES:
        return reference
    kernel = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    if not suits_varlen(kernel, shape):
        _LOG.warning(
            "attention runs without library kernels, slower and without CUDA graphs: torch %s has none for heads of %d",
            torch.__version__,
            shape.head_dim,
        )
        return reference
    write = choose_writer()
    varlen = VarlenAttention(shape, kernel=kernel, write=write, others=reference)
    if shape.block_size is None or varlen.takes_tables:
        _LOG.info("attention: torch's varlen_attn")
        return varlen
    try:
        return _flashinfer(shape, varlen)
    except _UnsuitedError as why:
        _LOG.warning(
            "attention: torch's varlen_attn; over the cache (decode, later chunks) torch's scaled dot products, slower "
            "and without CUDA graphs: %s; `pip install flashinfer-python==0.6.14`, with nvcc and ninja, mends it",
            why,
        )
        return varlen


class _UnsuitedError(Exception):
    """FlashInfer cannot serve here; says why."""


def _flashinfer(shape: AttentionShape, varlen: VarlenAttention) -> FlashInferAttention:
    if not suits_flashinfer(shape):
        raise _UnsuitedError(f"FlashInfer has no kernels for heads of {shape.head_dim}")
    try:
        library = importlib.import_module("flashinfer")
    except (ImportError, RuntimeError, OSError) as error:
        raise _UnsuitedError(f"FlashInfer does not import ({error})") from error
    attention = FlashInferAttention(
        shape,
        make_wrapper=library.BatchPrefillWithPagedKVCacheWrapper,
        write=choose_writer(),
        others=varlen,
    )
    try:
        attention.warm()
    except Exception as error:
        _LOG.warning("FlashInfer cannot be used", exc_info=True)
        raise _UnsuitedError(f"FlashInfer's kernels do not load ({type(error).__name__})") from error
    _LOG.info("attention: torch's varlen_attn, and FlashInfer %s over the cache", library.__version__)
    return attention
