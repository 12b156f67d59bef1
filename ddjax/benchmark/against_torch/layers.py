"""PyTorch layers of both families: adaptive norm, the vector head, places of arrays."""

import torch
from torch import nn
from torch.nn import functional


class Table(nn.Module):
    """An embedding by ids."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(rows, width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows [B, 1, D] of ids [B]."""
        return self.embed(ids)[:, None]


def adaptive_norm(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """LayerNorm [B, S, D] without parameters, times 1 + scale, plus shift."""
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class VectorHead(nn.Module):
    """A student's vectors [B, S, C]: adaptive norm by a table plus the condition, then linear."""

    def __init__(self, width: int, code_dim: int) -> None:
        super().__init__()
        self.shift_scale = nn.Parameter(torch.zeros(2, width))
        self.linear = nn.Linear(width, code_dim)

    def forward(self, h: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Vectors of h [B, S, D] and the condition [B, 1, D]."""
        shift, scale = (row + condition for row in self.shift_scale[:, None, None])
        return self.linear(adaptive_norm(h, scale, shift))
