"""Reads rotary positions: `rope_parameters` of transformers 5, or `rope_theta` and `rope_scaling` of older configs."""

import math

from liger.errors import ModelFolderError
from worker.shards.settings import Settings
from worker.shards.spec import RopeKind, RopeSpec


def read_rope(settings: Settings, max_length: int) -> RopeSpec:
    """Read the rotary positions of a model with `max_length` tokens.

    Raises:
        ModelFolderError: The kind of scaling is unknown, or only a part of each head is rotated.
    """
    table = settings.table("rope_parameters" if "rope_parameters" in settings else "rope_scaling")
    theta = table.number("rope_theta", settings.number("rope_theta", 10_000.0))
    kind = _read_kind(table)
    for holder in (table, settings):
        if holder.number("partial_rotary_factor", 1.0) != 1.0:
            raise holder.wrong("partial_rotary_factor", "must be 1: rotating a part of each head is not served")
    if kind is RopeKind.DEFAULT:
        return RopeSpec(theta=theta)
    original = settings.integer("original_max_position_embeddings", max_length)
    original = table.integer("original_max_position_embeddings", original)
    factor = table.number("factor", max_length / original if kind is RopeKind.YARN else None)
    low_freq_factor = table.number("low_freq_factor", 1.0)
    return RopeSpec(
        theta=theta,
        kind=kind,
        factor=factor,
        original_max_length=original,
        low_freq_factor=low_freq_factor,
        high_freq_factor=table.number("high_freq_factor", 4.0, above=low_freq_factor),
        beta_fast=table.number("beta_fast", 32.0),
        beta_slow=table.number("beta_slow", 1.0),
        truncate=table.flag("truncate", True),
        attention_factor=_yarn_attention_factor(table, factor) if kind is RopeKind.YARN else 1.0,
    )


def _read_kind(table: Settings) -> RopeKind:
    nested = [name for name in ("full_attention", "sliding_attention") if name in table]
    if nested:
        raise table.wrong(nested[0], "must not be set: rotary positions of their own for some layers are not served")
    name = table.text("rope_type", table.text("type", "default"))
    known = [kind.value for kind in RopeKind]
    if name not in known:
        raise ModelFolderError(
            f"{table.source} scales rotary positions by {name!r}, which is not served: those served are "
            f"{', '.join(known)}"
        )
    return RopeKind(name)


def _yarn_attention_factor(table: Settings, factor: float) -> float:
    """Return what cosines and sines are multiplied with (YaRN, section 3.4, and its variant with two scales)."""

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    default = scale(1.0)
    if table.raw("mscale") and table.raw("mscale_all_dim"):
        default = scale(table.number("mscale")) / scale(table.number("mscale_all_dim"))
    return table.number("attention_factor", default)
