"""Operations are counted exactly: products, convolutions, scans, branches and gradients."""

import types

import jax
import jax.numpy as jnp
import pytest

from ddjax.runtime import flops

A, B = jnp.ones((3, 5, 7)), jnp.ones((3, 7, 11))
PRODUCT = 2 * 3 * 5 * 7 * 11


def product(a, b):
    return jnp.einsum("bij,bjk->bik", a, b)


def test_products():
    assert flops.count(product, A, B) == PRODUCT
    assert flops.count(jax.jit(product), A, B) == PRODUCT
    assert flops.count(jax.checkpoint(product), A, B) == PRODUCT


def test_a_gradient_takes_twice_as_much_again():
    both = jax.value_and_grad(lambda a, b: jnp.sum(product(a, b) ** 2), argnums=(0, 1))
    assert flops.count(both, A, B) == 3 * PRODUCT


def test_a_scan_counts_every_turn_and_a_branch_the_longest():
    def scanned(a, b):
        return jax.lax.scan(lambda c, _: (c, product(c, b)), a, length=13)[1]

    def branch(a, b):
        return jax.lax.cond(a[0, 0, 0] > 0, lambda: product(a, b), lambda: 0 * product(a, b))

    assert flops.count(scanned, A, B) == 13 * PRODUCT
    assert flops.count(branch, A, B) == PRODUCT


def test_convolutions():
    def conv(x, kernel, groups):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    image = jnp.ones((2, 8, 8, 6))
    outputs = 2 * 4 * 4 * 10
    assert flops.count(lambda x: conv(x, jnp.ones((3, 3, 6, 10)), 1), image) == 2 * outputs * 54
    assert flops.count(lambda x: conv(x, jnp.ones((3, 3, 3, 10)), 2), image) == 2 * outputs * 27


def test_the_peak_of_an_unknown_device_is_measured():
    value, source = flops.peak()
    assert value > 1e8 and source.startswith("measured")


@pytest.mark.parametrize(("kind", "found"), [
    ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA A100-SXM4-40GB", 312e12), ("NVIDIA L4", 121e12),
    ("NVIDIA L40S", 362e12), ("TPU v5 lite", 197e12), ("TPU v5p", 459e12), ("TPU v5", 459e12),
    ("NVIDIA L40", None), ("NVIDIA RTX A1000", None),
])
def test_the_peak_of_a_known_device_is_its_data_sheets(monkeypatch, kind, found):
    devices = jax.local_devices()
    monkeypatch.setattr(
        jax, "local_devices", lambda: [types.SimpleNamespace(device_kind=kind), *devices]
    )
    monkeypatch.setattr(flops.sharding, "one_device", lambda: flops.sharding.make_mesh(1, devices))
    value, source = flops.peak.__wrapped__()
    assert value == found if found else source.startswith("measured")


def test_traffic_is_what_products_read_and_write():
    def scanned(a, b):
        return jax.lax.scan(lambda c, _: (c, product(jnp.tanh(c), b)), a, length=13)[1]

    once = 4 * (3 * 5 * 7 + 3 * 7 * 11 + 3 * 5 * 11)
    assert flops.traffic(jax.make_jaxpr(product)(A, B).jaxpr) == once
    assert flops.traffic(jax.make_jaxpr(scanned)(A, B).jaxpr) == 13 * once
