"""Inception's file as pytorch-fid has it, with random weights; bilinear resizing by definition."""

import math

import numpy as np
import torch

_STEM = (
    ("Conv2d_1a_3x3", 3, 32, 3), ("Conv2d_2a_3x3", 32, 32, 3), ("Conv2d_2b_3x3", 32, 64, 3),
    ("Conv2d_3b_1x1", 64, 80, 1), ("Conv2d_4a_3x3", 80, 192, 3),
)


def _shapes_a(inner, pool):
    return (
        ("1x1", inner, 64, 1), ("5x5_1", inner, 48, 1), ("5x5_2", 48, 64, 5),
        ("3x3dbl_1", inner, 64, 1), ("3x3dbl_2", 64, 96, 3), ("3x3dbl_3", 96, 96, 3),
        ("_pool", inner, pool, 1),
    )


def _shapes_c(c):
    row, column = (1, 7), (7, 1)
    return (
        ("1x1", 768, 192, 1),
        ("7x7_1", 768, c, 1), ("7x7_2", c, c, row), ("7x7_3", c, 192, column),
        ("7x7dbl_1", 768, c, 1), ("7x7dbl_2", c, c, column), ("7x7dbl_3", c, c, row),
        ("7x7dbl_4", c, c, column), ("7x7dbl_5", c, 192, row), ("_pool", 768, 192, 1),
    )


def _shapes_e(inner):
    return (
        ("1x1", inner, 320, 1),
        ("3x3_1", inner, 384, 1), ("3x3_2a", 384, 384, (1, 3)), ("3x3_2b", 384, 384, (3, 1)),
        ("3x3dbl_1", inner, 448, 1), ("3x3dbl_2", 448, 384, 3),
        ("3x3dbl_3a", 384, 384, (1, 3)), ("3x3dbl_3b", 384, 384, (3, 1)),
        ("_pool", inner, 192, 1),
    )


_MIXED = {
    "5b": _shapes_a(192, 32), "5c": _shapes_a(256, 64), "5d": _shapes_a(288, 64),
    "6a": (
        ("3x3", 288, 384, 3), ("3x3dbl_1", 288, 64, 1), ("3x3dbl_2", 64, 96, 3),
        ("3x3dbl_3", 96, 96, 3),
    ),
    "6b": _shapes_c(128), "6c": _shapes_c(160), "6d": _shapes_c(160), "6e": _shapes_c(192),
    "7a": (
        ("3x3_1", 768, 192, 1), ("3x3_2", 192, 320, 3), ("7x7x3_1", 768, 192, 1),
        ("7x7x3_2", 192, 192, (1, 7)), ("7x7x3_3", 192, 192, (7, 1)), ("7x7x3_4", 192, 192, 3),
    ),
    "7b": _shapes_e(1280), "7c": _shapes_e(2048),
}


def state(divisor=1, seed=0):
    """Random weights and running statistics; all channels but the image's are divided."""
    generator = torch.Generator().manual_seed(seed)

    def between(low, high, size):
        return low + (high - low) * torch.rand(size, generator=generator)

    layers = [*_STEM, *(
        (f"Mixed_{block}.branch{name}", *sizes)
        for block, units in _MIXED.items() for name, *sizes in units
    )]
    tensors = {}
    for name, inner, outer, kernel in layers:
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        inner, outer = inner if inner == 3 else inner // divisor, outer // divisor
        gain = (2 / (inner * height * width)) ** 0.5
        tensors |= {
            f"{name}.conv.weight": gain * torch.randn(
                (outer, inner, height, width), generator=generator
            ),
            f"{name}.bn.weight": between(0.5, 1.5, outer),
            f"{name}.bn.bias": between(-0.2, 0.4, outer),
            f"{name}.bn.running_mean": between(-0.3, 0.3, outer),
            f"{name}.bn.running_var": between(0.5, 1.5, outer),
        }
    return tensors | {
        "fc.weight": 0.05 * torch.randn((1008, 2048 // divisor), generator=generator),
        "fc.bias": between(-1, 1, 1008),
    }


def bilinear(images, height, width, half_pixel):
    """Images [B, height, width, C] of [B, H, W, C], float64: pixel by pixel, by the definition."""
    images = np.asarray(images, np.float64)
    found = np.empty((len(images), height, width, images.shape[3]))
    for y in range(height):
        top, bottom, down = _taps(y, images.shape[1], height, half_pixel)
        for x in range(width):
            left, right, along = _taps(x, images.shape[2], width, half_pixel)
            upper = images[:, top, left] * (1 - along) + images[:, top, right] * along
            lower = images[:, bottom, left] * (1 - along) + images[:, bottom, right] * along
            found[:, y, x] = upper * (1 - down) + lower * down
    return found


def _taps(i, size, wanted, half_pixel):
    place = max((i + 0.5) * size / wanted - 0.5, 0) if half_pixel else i * size / wanted
    first = math.floor(place)
    return first, min(first + 1, size - 1), place - first
