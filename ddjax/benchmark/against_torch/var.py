"""VAR in PyTorch: the teacher with a cache of keys and values, and the student's pass."""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional

from ddjax.benchmark.against_torch import sampling
from ddjax.benchmark.against_torch.layers import Table, VectorHead, adaptive_norm
from ddjax.benchmark.against_torch.vq import Quantiser
from ddjax.method.groups import Groups
from ddjax.method.guidance import Guidance
from ddjax.models.var import student_mask
from ddjax.models.var_trunk import VARConfig

# Keys and values [B, H, T, K] of the earlier scales, for each block.
Cache = list[tuple[torch.Tensor, torch.Tensor]]


class Attention(nn.Module):
    """Self-attention between queries and keys of norm 1, with a scale for each head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.wqkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.log_scale = nn.Parameter(torch.zeros(heads))
        self.wo = nn.Linear(width, width)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None, past: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Outputs [B, S, D], and keys and values of all positions so far."""
        batch, length, width = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = functional.linear(x, self.wqkv.weight, bias).view(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scale = self.log_scale.clamp_max(math.log(100)).exp()
        q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
        if past:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        q = q * scale[:, None, None]
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        return self.wo(out.transpose(1, 2).reshape(batch, length, width)), (k, v)


class MLP(nn.Module):
    """fc2(gelu(fc1 x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The shape stays."""
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))


class Modulation(nn.Module):
    """Several vectors [B, 1, D] from the condition."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.count, self.linear = count, nn.Linear(width, count * width)

    def forward(self, condition: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The vectors."""
        return self.linear(functional.silu(condition)).chunk(self.count, dim=-1)


class Block(nn.Module):
    """Attention and MLP, each between an adaptive norm and a gate, with a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.modulation = Modulation(width, 6)
        self.attention, self.mlp = Attention(width, heads), MLP(width)

    def forward(
        self,
        h: torch.Tensor,
        condition: torch.Tensor,
        mask: torch.Tensor | None,
        between: torch.Tensor | None,
        past: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Outputs [B, S, D], and keys and values; `between` is added before the MLP, if any."""
        gate1, gate2, scale1, scale2, shift1, shift2 = self.modulation(condition)
        out, seen = self.attention(adaptive_norm(h, scale1, shift1), mask, past)
        h = h + gate1 * out
        if between is not None:
            h = h + between
        return h + gate2 * self.mlp(adaptive_norm(h, scale2, shift2)), seen


class Trunk(nn.Module):
    """Embeddings, blocks, logits head; `levels` are the condition's, if it has one, and scales."""

    def __init__(self, config: VARConfig, levels: Groups) -> None:
        super().__init__()
        width = config.width
        self.condition = Table(config.num_classes + 1, width)
        self.code_embed = nn.Linear(config.code_dim, width)
        self.start = nn.Parameter(torch.zeros(width))
        self.level_embed = nn.Parameter(torch.zeros(levels.count, width))
        self.position_embed = nn.Parameter(torch.zeros(levels.length, width))
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.layers))
        self.head_modulation, self.head = Modulation(width, 2), nn.Linear(width, config.vocab_size)
        level = torch.from_numpy(levels.of_token).long()
        self.register_buffer("level", level, persistent=False)

    def place(self, h: torch.Tensor, position: int) -> torch.Tensor:
        """Add the embeddings of level and position to h [B, S, D]."""
        here = slice(position, position + h.shape[1])
        return h + self.level_embed[self.level[here]] + self.position_embed[here]

    def logits(self, h: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """[B, S, V]."""
        return self.head(adaptive_norm(h, *self.head_modulation(condition)))


class Teacher(nn.Module):
    """VAR."""

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config, config.groups)
        self.quantiser = Quantiser(config.scales, config.vocab_size, config.code_dim)

    @torch.inference_mode()
    def generate(self, labels: torch.Tensor, guidance: Guidance) -> torch.Tensor:
        """Ids [B, L] of labels [B], scale after scale, with guidance over a batch twice as large.

        Each pass sees the tokens of one scale, and all earlier scales through the cache.
        """
        groups, side = self.config.groups, self.config.scales[-1]
        condition = self.trunk.condition(
            torch.cat([labels, torch.full_like(labels, self.config.num_classes)])
        )
        h = self.trunk.place(condition + self.trunk.start, 0)
        total = torch.zeros(len(labels), self.config.code_dim, side, side)
        cache, ids = [()] * self.config.layers, []
        for scale, strength in enumerate(guidance.strength(groups).tolist()):
            for i, block in enumerate(self.trunk.blocks):
                h, cache[i] = block(h, condition, None, None, cache[i])
            logits = sampling.guide(self.trunk.logits(h, condition), strength)
            ids.append(sampling.draw(logits, guidance))
            if scale + 1 < groups.count:
                total = total + self.quantiser.spread(self.quantiser.embedding[ids[-1]], scale)
                h = self.trunk.code_embed(self.quantiser.shrink(total, scale + 1))
                h = self.trunk.place(h, int(groups.starts[scale + 1])).repeat(2, 1, 1)
        return torch.cat(ids, dim=1)


class Student(nn.Module):
    """The one-pass student."""

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        width, levels = config.width, Groups((1, *config.groups.sizes))
        self.trunk = Trunk(config, levels)
        self.noise_data_embed = nn.Embedding(2, width)
        self.noise_data = nn.ModuleList(nn.Linear(width, width) for _ in range(config.layers + 1))
        self.vector_head = VectorHead(width, config.code_dim)
        mask = torch.from_numpy(student_mask(levels).copy())
        self.register_buffer("mask", mask, persistent=False)

    @torch.inference_mode()
    def forward(self, eps: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [B, L, V] and vectors [B, L, C] of noise [B, L, C]."""
        trunk, condition = self.trunk, self.trunk.condition(labels)
        is_data = torch.zeros(1, eps.shape[1] + 1, dtype=torch.long)
        is_data[:, 0] = 1
        added = self.noise_data_embed(is_data)
        h = torch.cat([condition + trunk.start, trunk.code_embed(eps)], dim=1)
        h = trunk.place(h, 0) + added
        for block, linear in itertools.zip_longest(trunk.blocks, self.noise_data):
            if block is None:
                h = (h + linear(added))[:, 1:]
            else:
                h, _ = block(h, condition, self.mask, linear(added), ())
        return trunk.logits(h, condition), self.vector_head(h, condition)
