"""Fingerprints: any change shows, the place on the devices does not."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ddjax.runtime import sharding
from ddjax.storage.fingerprint import fingerprints


def of(array):
    return fingerprints({"a": array})["a"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_every_single_bit_counts(dtype):
    values = np.random.default_rng(0).integers(0, 100, (3, 5)).astype(jnp.dtype(dtype))
    seen = {of(jnp.asarray(values))}
    for byte in range(values.nbytes):
        for bit in range(8):
            raw = bytearray(values.tobytes())
            raw[byte] ^= 1 << bit
            seen.add(of(jnp.asarray(np.frombuffer(raw, values.dtype).reshape(values.shape))))
    assert len(seen) == 1 + 8 * values.nbytes


def test_order_shape_and_type_count():
    values = jnp.arange(6, dtype=jnp.float32)
    found = {of(values), of(values[::-1]), of(values.reshape(2, 3)), of(values.reshape(3, 2)),
             of(values.astype(jnp.int32)), of(values[:5]), of(jnp.zeros(6)), of(jnp.zeros(7))}
    assert len(found) == 8


def test_the_devices_do_not_count():
    values = jax.random.normal(jax.random.key(0), (16, 24))
    mesh = sharding.make_mesh(2)
    specs = (PartitionSpec(), PartitionSpec("data"), PartitionSpec("fsdp", "data"),
             PartitionSpec(None, ("data", "fsdp")))
    found = {of(jax.device_put(values, NamedSharding(mesh, spec))) for spec in specs}
    assert found == {of(values)}


def test_it_is_the_sum_that_it_says():
    """In Python's integers; checkpoints live longer than versions of this code."""

    def scramble(x):
        x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
        x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
        return x ^ x >> 16

    values = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    sums = [0, 0]
    for place, bits in enumerate(values.view(np.uint32).ravel().tolist()):
        one = scramble(bits ^ scramble(place + 1))
        sums[0] += one
        sums[1] += scramble(one ^ scramble(2**32 - 1 - place))
    wanted = "".join(f"{total % 2**32:08x}" for total in sums)
    assert of(jnp.asarray(values)) == f"float32[2, 3] {wanted}"


MANY = """
import jax
from jax.sharding import NamedSharding, PartitionSpec
from ddjax.runtime import hosts, sharding
from ddjax.storage.fingerprint import fingerprints

hosts.join("", 1, 0)
place = NamedSharding(sharding.make_mesh(2), PartitionSpec("fsdp"))
arrays = {str(i): jax.device_put(jax.numpy.ones((16, 32)), place) for i in range(300)}
for _ in range(20):
    fingerprints(arrays)
"""


def test_simulated_devices_do_not_lock_each_other_up():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(
        [sys.executable, "-c", MANY], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[:1000]
