"""VQ tokenizers in PyTorch, LlamaGen's and VAR's: what draws an image from code vectors."""

import itertools

import torch
from torch import nn
from torch.nn import functional

from ddjax.models.multiscale import PHIS, phi_of_scale
from ddjax.models.multiscale_vq import MultiscaleTokenizerConfig
from ddjax.models.vq import VQTokenizerConfig


class NormSwish(nn.Module):
    """Group norm, then SiLU."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The shape stays."""
        return functional.silu(self.norm(x))


def conv(inner: int, outer: int, size: int) -> nn.Conv2d:
    """A square convolution that keeps the size."""
    return nn.Conv2d(inner, outer, size, padding=size // 2)


class ResBlock(nn.Module):
    """Two 3x3 convolutions with a residual."""

    def __init__(self, inner: int, outer: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = NormSwish(inner, groups), NormSwish(outer, groups)
        self.conv1, self.conv2 = conv(inner, outer, 3), conv(outer, outer, 3)
        self.shortcut = conv(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, inner, h, w] -> [B, outer, h, w]."""
        h = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return self.shortcut(x) + h


class AttentionBlock(nn.Module):
    """Single-head self-attention over the positions, with a residual."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q, self.k, self.v, self.out = (conv(channels, channels, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The shape stays."""
        h = self.norm(x)
        q, k, v = (part(h).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        seen = functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.out(seen.transpose(1, 2).reshape(x.shape))


class Level(nn.Module):
    """The residual blocks of one resolution, with attention behind each at the lowest."""

    def __init__(self, inner: int, outer: int, blocks: int, attention: bool, groups: int) -> None:
        super().__init__()
        widths = [inner] + [outer] * (blocks - 1)
        self.res = nn.ModuleList(ResBlock(width, outer, groups) for width in widths)
        attend = range(blocks if attention else 0)
        self.attn = nn.ModuleList(AttentionBlock(outer, groups) for _ in attend)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, inner, h, w] -> [B, outer, h, w]."""
        for res, attend in itertools.zip_longest(self.res, self.attn):
            x = res(x) if attend is None else attend(res(x))
        return x


class Middle(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.res1, self.res2 = (ResBlock(channels, channels, groups) for _ in range(2))
        self.attn = AttentionBlock(channels, groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The shape stays."""
        return self.res2(self.attn(self.res1(x)))


class Decoder(nn.Module):
    """Features [B, z_channels, h, w] -> images [B, channels, H, W]."""

    def __init__(self, c: VQTokenizerConfig) -> None:
        super().__init__()
        widths = [c.channels * m for m in reversed(c.multipliers)]
        self.conv_in = conv(c.z_channels, widths[0], 3)
        self.middle = Middle(widths[0], c.norm_groups)
        self.levels = nn.ModuleList(
            Level(inner, outer, c.blocks + 1, i == 0, c.norm_groups)
            for i, (inner, outer) in enumerate(zip([widths[0], *widths], widths, strict=False))
        )
        self.up = nn.ModuleList(conv(width, width, 3) for width in widths[:-1])
        self.norm_out = NormSwish(widths[-1], c.norm_groups)
        self.conv_out = conv(widths[-1], c.image_channels, 3)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """The image, not clamped."""
        h = self.middle(self.conv_in(z))
        for level, up in itertools.zip_longest(self.levels, self.up):
            h = level(h)
            if up is not None:
                h = up(functional.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.conv_out(self.norm_out(h))


class VQTokenizer(nn.Module):
    """LlamaGen's."""

    def __init__(self, config: VQTokenizerConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.post_quant_conv = conv(config.code_dim, config.z_channels, 1)
        self.decoder = Decoder(config)

    @torch.inference_mode()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [B, channels, H, W] of code vectors [B, L, C]."""
        z = x.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return self.decoder(self.post_quant_conv(z))


class Quantiser(nn.Module):
    """VAR's codes, and the maps they add up to."""

    def __init__(self, scales: tuple[int, ...], vocab_size: int, code_dim: int) -> None:
        super().__init__()
        self.scales = scales
        self.embedding = nn.Parameter(torch.zeros(vocab_size, code_dim))
        self.phi_weights = nn.Parameter(torch.zeros(PHIS, 3, 3, code_dim, code_dim))
        self.phi_biases = nn.Parameter(torch.zeros(PHIS, code_dim))

    def spread(self, x: torch.Tensor, scale: int) -> torch.Tensor:
        """What the vectors [B, S, C] of a scale add to the map [B, C, H, W]."""
        side, grid = self.scales[scale], self.scales[-1]
        h = x.transpose(1, 2).unflatten(2, (side, side))
        if side != grid:
            h = functional.interpolate(h, size=(grid, grid), mode="bicubic")
        phi = phi_of_scale(len(self.scales))[scale]
        weight = self.phi_weights[phi].permute(3, 2, 0, 1)
        return 0.5 * h + 0.5 * functional.conv2d(h, weight, self.phi_biases[phi], padding=1)

    def shrink(self, f: torch.Tensor, scale: int) -> torch.Tensor:
        """Means [B, S, C] of a map over the cells of a scale."""
        side = self.scales[scale]
        return functional.interpolate(f, size=(side, side), mode="area").flatten(2).transpose(1, 2)


class MultiscaleTokenizer(nn.Module):
    """VAR's."""

    def __init__(self, config: MultiscaleTokenizerConfig) -> None:
        super().__init__()
        self.quantiser = Quantiser(config.scales, config.vocab_size, config.code_dim)
        self.post_quant_conv = conv(config.code_dim, config.z_channels, 3)
        self.decoder = Decoder(config)

    @torch.inference_mode()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [B, channels, H, W] of code vectors [B, L, C], clamped."""
        parts = x.split([side**2 for side in self.quantiser.scales], dim=1)
        total = sum(self.quantiser.spread(part, i) for i, part in enumerate(parts))
        return self.decoder(self.post_quant_conv(total)).clamp(-1, 1)
