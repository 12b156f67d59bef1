"""Strictness for all tests: no silent broadcasting between ranks. Eight pretended devices."""

import os

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)
# They wait for each other's messages on the threads of one pool: see `ddjax.hosts.join`.
os.environ["NPROC"] = "64"
jax.config.update("jax_cpu_enable_async_dispatch", False)


@pytest.fixture
def x64():
    """Float64 for the length of a test."""
    with jax.enable_x64(True):
        yield
