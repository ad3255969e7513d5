"""Beam search written from its definition, over the whole vocabulary, one hypothesis at a time. For
tests only.

Nothing here is shared with saxml/engine/beam.py, and nothing is clever.
"""

from collections.abc import Callable, Sequence

import numpy as np

F32 = np.float32


def beam_search(
    logits_of: Callable[[list[int]], np.ndarray],
    *,
    beam_size: int,
    tokens_per_beam: int,
    alpha: float,
    min_steps: int,
    max_steps: int,
    stop_ids: Sequence[int],
    early_exit: bool,
) -> list[tuple[list[int], float]]:
    """[(tokens, normalised score)], best first. logits_of(generated tokens) -> f32[V] after the
    prompt and those."""
    live: list[tuple[list[int], np.float32]] = [([], F32(b) * F32(-1e9)) for b in range(beam_size)]
    ended = [([0] * max_steps, F32(-1e9)) for _ in range(beam_size)]
    for generated in range(max_steps):
        proposals = []
        candidates = []
        for beam, (tokens, score) in enumerate(live):
            logits = logits_of(tokens).astype(F32)
            shifted = logits - logits.max()
            logp = shifted - np.log(np.exp(shifted).sum(dtype=F32))
            if generated < min_steps:
                for stop in stop_ids:
                    logp[stop] = F32(-1e20)
            for stop in stop_ids:
                n = generated + 1
                norm = F32((n + 5) / 5) ** F32(alpha)
                proposals.append(([*tokens, stop], (score + logp[stop]) / norm))
            best = np.argsort(-logp, kind="stable").tolist()
            for rank, token in enumerate(best[:tokens_per_beam]):
                value = logp[token]
                if token in stop_ids and not early_exit:
                    value = value - F32(1e9)
                candidates.append((-(score + value), beam, rank, [*tokens, token]))
        # sorted() is stable: kept ones stand before new ones of the same score.
        ended = sorted(ended + proposals, key=lambda e: -e[1])[:beam_size]
        candidates.sort(key=lambda c: c[:3])
        live = [(tokens, -negative) for negative, _, _, tokens in candidates[:beam_size]]
        if early_exit and all(set(tokens) & set(stop_ids) for tokens, _ in live):
            break
    return [(tokens, float(score)) for tokens, score in ended]
