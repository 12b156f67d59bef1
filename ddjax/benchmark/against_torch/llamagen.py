"""LlamaGen in PyTorch: the teacher with a cache of keys and values, and the student's pass."""

import torch
from torch import nn
from torch.nn import functional

from ddjax.benchmark.against_torch import sampling
from ddjax.benchmark.against_torch.layers import Table, VectorHead
from ddjax.method.guidance import Guidance
from ddjax.models.llamagen_trunk import LlamaGenConfig
from ddjax.models.transformer import rope_table

# Keys and values [2, B, H, T, K] of a block, with room for all positions.
Cache = torch.Tensor


class RMSNorm(nn.Module):
    """x / rms(x), times a scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The shape stays."""
        return functional.rms_norm(x, x.shape[-1:], self.weight, eps=1e-5)


def rotate(x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
    """Turn the pairs of x [B, S, H, K] as complex numbers, by rope [S, 1, K / 2], complex."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rope).flatten(3)


class Attention(nn.Module):
    """Self-attention with rotary embeddings, causal over a sequence or over a cache."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.wqkv = nn.Linear(width, 3 * width, bias=False)
        self.wo = nn.Linear(width, width, bias=False)

    def forward(
        self, x: torch.Tensor, rope: torch.Tensor, cache: Cache | None, position: int
    ) -> torch.Tensor:
        """Outputs [B, S, D]; with a cache S is 1, and `position` says where."""
        batch, length, width = x.shape
        q, k, v = self.wqkv(x).view(batch, length, 3, self.heads, -1).unbind(2)
        q, k = rotate(q, rope).transpose(1, 2), rotate(k, rope).transpose(1, 2)
        v = v.transpose(1, 2)
        if cache is not None:
            cache[0, :, :, position : position + 1] = k
            cache[1, :, :, position : position + 1] = v
            k, v = cache[:, :, :, : position + 1]
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        return self.wo(out.transpose(1, 2).reshape(batch, length, width))


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = -(-int(8 * width / 3) // 256) * 256
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The shape stays."""
        return self.w2(functional.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """Pre-norm attention and SwiGLU, each with a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = RMSNorm(width), RMSNorm(width)
        self.attention, self.mlp = Attention(width, heads), SwiGLU(width)

    def forward(
        self, h: torch.Tensor, rope: torch.Tensor, cache: Cache | None, position: int
    ) -> torch.Tensor:
        """Outputs [B, S, D]."""
        h = h + self.attention(self.attention_norm(h), rope, cache, position)
        return h + self.mlp(self.mlp_norm(h))


class Transformer(nn.Module):
    """The blocks."""

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads) for _ in range(config.layers)
        )


class Trunk(nn.Module):
    """Class embedding, blocks, last norm and logits head."""

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.condition = Table(config.num_classes + 1, config.width)
        self.transformer = Transformer(config)
        self.norm = RMSNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        rope = torch.from_numpy(rope_table(config.grid, config.width // config.heads, 1))
        self.register_buffer("rope", torch.view_as_complex(rope)[:, None], persistent=False)

    def forward(
        self, h: torch.Tensor, caches: list[Cache] | None = None, position: int = 0
    ) -> torch.Tensor:
        """Run the blocks over h [B, S, D], which begins at `position`."""
        rope = self.rope[position : position + h.shape[1]]
        for i, block in enumerate(self.transformer.blocks):
            h = block(h, rope, caches[i] if caches else None, position)
        return h


class Teacher(nn.Module):
    """LlamaGen's GPT for classes."""

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config)
        self.token_embed = nn.Embedding(config.vocab_size, config.width)

    @torch.inference_mode()
    def generate(self, labels: torch.Tensor, guidance: Guidance) -> torch.Tensor:
        """Ids [B, L] of labels [B], token after token, with guidance over a batch twice as large.

        Each pass sees one position, and all earlier ones through the cache.
        """
        c, strengths = self.config, guidance.strength(self.config.groups).tolist()
        both = torch.cat([labels, torch.full_like(labels, c.num_classes)])
        room = (2, len(both), c.heads, c.groups.length, c.width // c.heads)
        caches, ids = [torch.zeros(room) for _ in range(c.layers)], []
        h = self.trunk.condition(both)
        for position, strength in enumerate(strengths):
            logits = self.trunk.head(self.trunk.norm(self.trunk(h, caches, position)))
            ids.append(sampling.draw(sampling.guide(logits, strength), guidance))
            h = self.token_embed(ids[-1]).repeat(2, 1, 1)
        return torch.cat(ids, dim=1)


class Student(nn.Module):
    """The one-pass student for classes."""

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.trunk = Trunk(config)
        self.code_embed = nn.Linear(config.code_dim, config.width)
        self.noise_data_embed = nn.Embedding(2, config.width)
        self.vector_head = VectorHead(config.width, config.code_dim)

    @torch.inference_mode()
    def forward(self, eps: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [B, L, V] and vectors [B, L, C] of noise [B, L, C]."""
        condition = self.trunk.condition(labels)
        noise, data = self.noise_data_embed.weight
        h = self.trunk(torch.cat([condition + data, self.code_embed(eps) + noise], dim=1))[:, 1:]
        return self.trunk.head(self.trunk.norm(h)), self.vector_head(h, condition)
