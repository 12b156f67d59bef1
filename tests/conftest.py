"""Strictness for all tests: no silent broadcasting between ranks. Eight pretended devices."""

import os

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)
# They wait for each other's messages on the threads of one pool: see `ddjax.runtime.hosts.join`.
os.environ["NPROC"] = "64"
jax.config.update("jax_cpu_enable_async_dispatch", False)
# Most of a test is compiling; programs of tests run once or twice.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session", autouse=True)
def shared_folder(tmp_path_factory, pytestconfig):
    """One for all workers: golden checkpoints, and compiled programs, which the next run has too."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    os.environ["GOLDEN_CHECKPOINTS"] = str(folder / "golden")
    os.environ["COMPILED_PROGRAMS"] = str(pytestconfig.cache.mkdir("compiled"))
    jax.config.update("jax_compilation_cache_dir", os.environ["COMPILED_PROGRAMS"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(scope="module", autouse=True)
def programs_of_one_file():
    """A process may hold 65,530 memory maps; compiled programs that pile up take more, and crash."""
    yield
    jax.clear_caches()


@pytest.fixture
def optimized():
    """Optimized programs, for tests that compute for longer than they compile."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def x64():
    """Float64 for the length of a test."""
    with jax.enable_x64(True):
        yield
