"""A sampler for one row in plain Python and float64: slow, and plainly what the rules say."""

import math
from collections.abc import Sequence

from aobatch.sampling.params import SamplingParams


def processed(
    logits: Sequence[float],
    params: SamplingParams,
    prompt: Sequence[int] = (),
    generated: Sequence[int] = (),
) -> list[float]:
    """Apply bias, bans and penalties, in this order."""
    values = [float(value) for value in logits]
    for token, bias in params.logit_bias:
        values[token] += bias
    if len(generated) < params.min_tokens:
        for token in params.end_token_ids:
            values[token] = -math.inf
    for token in {*prompt, *generated}:
        penalty = params.repetition_penalty
        values[token] = values[token] * penalty if values[token] < 0 else values[token] / penalty
    for token in set(generated):
        values[token] -= list(generated).count(token) * params.frequency_penalty
        values[token] -= params.presence_penalty
    return values


def weights(values: Sequence[float], temperature: float) -> list[float]:
    """Give probabilities in proportion to the best token's."""
    best = max(values)
    return [math.exp((value - best) / temperature) for value in values]


def kept(masses: Sequence[float], params: SamplingParams) -> tuple[list[int], float]:
    """Give the ids that top_k, top_p and min_p leave, and how clear the last one's case is."""
    margin = 1.0
    order = sorted(range(len(masses)), key=lambda token: (-masses[token], token))
    if params.top_k > 0:
        order = order[: params.top_k]
    if params.top_p < 1:
        total, reached, nucleus = math.fsum(masses[token] for token in order), 0.0, []
        for token in order:
            nucleus.append(token)
            reached += masses[token]
            margin = min(margin, abs(reached / total - params.top_p))
            if reached >= params.top_p * total:
                break
        order = nucleus
    if params.min_p > 0:
        ratios = [masses[token] / masses[order[0]] for token in order]
        margin = min([margin, *(abs(ratio - params.min_p) for ratio in ratios if ratio < 1)])
        order = [token for token, ratio in zip(order, ratios, strict=True) if ratio >= params.min_p]
    return sorted(order), margin


def distribution(values: Sequence[float], params: SamplingParams) -> tuple[list[float], float]:
    """Give the probabilities from which a token is drawn, and how clear the filters' case is."""
    masses = weights(values, 1.0 if params.is_greedy else params.temperature)
    ids, margin = (range(len(masses)), 1.0) if params.is_greedy else kept(masses, params)
    total = math.fsum(masses[token] for token in ids)
    left = set(ids)
    return [mass / total if token in left else 0.0 for token, mass in enumerate(masses)], margin


def logprobs(values: Sequence[float]) -> list[float]:
    """Give the natural logarithms of the softmax."""
    best = max(values)
    total = best + math.log(math.fsum(math.exp(value - best) for value in values))
    return [value - total for value in values]


def ranked(scores: Sequence[float]) -> list[int]:
    """Give all ids, the largest score first, ties by id."""
    return sorted(range(len(scores)), key=lambda token: (-scores[token], token))
