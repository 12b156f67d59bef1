"""Sampling of a teacher in PyTorch: guidance, top-k, top-p, a random draw."""

import torch

from ddjax.method.guidance import Guidance


def guide(logits: torch.Tensor, strength: float) -> torch.Tensor:
    """Logits [B, S, V] of a doubled batch, its second half without a condition."""
    conditional, null = logits.chunk(2)
    return conditional + strength * (conditional - null)


def draw(logits: torch.Tensor, guidance: Guidance) -> torch.Tensor:
    """Ids [B, S], drawn at random from guided logits [B, S, V]."""
    logits = logits / max(guidance.temperature, 1e-5)
    if 0 < guidance.top_k < logits.shape[-1]:
        kth = logits.topk(guidance.top_k).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if guidance.top_p < 1:
        ordered, order = logits.sort(descending=True)
        p = ordered.softmax(-1)
        cut = p.cumsum(-1) - p > guidance.top_p
        logits = logits.masked_fill(cut.scatter(-1, order, cut), -torch.inf)
    p = logits.softmax(-1)
    return torch.multinomial(p.flatten(0, 1), 1).view(p.shape[:2])
