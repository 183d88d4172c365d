"""The sampler by its definition: one row, the whole vocabulary, sorted lists, sums by math.fsum.

Only the noise is the sampler's own: it is what randomness is defined by.
"""

import math

import numpy as np
import torch

from liger.domain import Sampling
from tests.unit.worker.sampling.drawing import Ask
from worker.sampling.noise import gumbel_noise, noise_key

STEPS = 2.0**40


def draw_plainly(logits: list[float], one: Ask) -> int:
    """Return the token of one sequence, from its whole logits."""
    sampling = one.sampling
    scores = allow(adjust(logits, one), one)
    left = [token for token, score in enumerate(scores) if score > -math.inf]
    if not left:
        return min(one.stop, default=0)
    if sampling.temperature == 0:
        return max(left, key=lambda token: (scores[token], -token))
    scores = [np.float32(score) / np.float32(sampling.temperature) for score in scores]
    kept = filtered(scores, left, sampling)
    key = noise_key(sampling.seed, one.sample, one.place)
    noise = gumbel_noise(torch.tensor([key]), torch.arange(len(scores)))[0].numpy()
    return max(kept, key=lambda token: (np.float32(scores[token]) + noise[token], -token))


def adjust(logits: list[float], one: Ask) -> list[float]:
    """Apply penalties and biases."""
    sampling = one.sampling
    scores = [np.float32(score) for score in logits]
    repetition, presence, frequency = (
        np.float32(value)
        for value in (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty)
    )
    for token in range(len(scores)):
        if token in one.prompt or token in one.output:
            scores[token] = scores[token] * repetition if scores[token] < 0 else scores[token] / repetition
        count = np.float32(one.output.count(token))
        if count:
            scores[token] = scores[token] - (presence + frequency * count)
    for token, bias in sampling.logit_bias:
        scores[token] = scores[token] + np.float32(bias)
    return scores


def allow(scores: list[float], one: Ask) -> list[float]:
    """Apply masks; stop tokens that come too early last, if anything else is left."""
    sampling = one.sampling
    may = set(sampling.allowed_token_ids or range(len(scores))) - set(sampling.banned_token_ids)
    if one.mask is not None:
        may &= set(one.mask.nonzero().flatten().tolist())
    if len(one.output) < one.min_tokens:
        may = may - set(one.stop) or may
    return [score if token in may else -math.inf for token, score in enumerate(scores)]


def filtered(scores: list[float], left: list[int], sampling: Sampling) -> list[int]:
    """Return what may be drawn, likeliest first."""
    ordered = sorted(left, key=lambda token: (-scores[token], token))
    if sampling.top_k:
        least = scores[ordered[min(sampling.top_k, len(ordered)) - 1]]
        ordered = [token for token in ordered if scores[token] >= least]
    if sampling.top_p < 1:
        masses = probabilities(scores, ordered)
        before = [math.fsum(masses[:place]) for place in range(len(ordered))]
        ordered = [
            token for place, token in enumerate(ordered) if place == 0 or steps(before[place]) < steps(sampling.top_p)
        ]
    if sampling.min_p > 0:
        top = float(scores[ordered[0]])
        ordered = [token for token in ordered if float(scores[token]) - top >= math.log(sampling.min_p)]
    if sampling.typical_p < 1:
        ordered = typical(scores, ordered, sampling.typical_p)
    return ordered


def typical(scores: list[float], ordered: list[int], mass: float) -> list[int]:
    """Return the tokens whose surprise is nearest to the entropy."""
    masses = probabilities(scores, ordered)
    entropy = -math.fsum(p * math.log(p) for p in masses if p > 0)
    distances = [steps(abs(-math.log(p) - entropy)) if p > 0 else math.inf for p in masses]
    nearest = sorted(range(len(ordered)), key=lambda place: distances[place])
    sums = [math.fsum(masses[place] for place in nearest[: count + 1]) for count in range(len(nearest))]
    last = min(sum(steps(one) < steps(mass) for one in sums), len(nearest) - 1)
    return [token for place, token in enumerate(ordered) if distances[place] <= distances[nearest[last]]]


def probabilities(scores: list[float], tokens: list[int]) -> list[float]:
    top = max(float(scores[token]) for token in tokens)
    weights = [math.exp(float(scores[token]) - top) for token in tokens]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def steps(mass: float) -> float:
    return float(round(mass * STEPS))
