"""Strictness for all tests: no silent broadcasting between ranks. Eight simulated devices."""

import fcntl
import gc
import os
import shutil
from pathlib import Path

import jax
import pytest

import tests.one_context  # noqa: F401
from tests.commands import run

# What is imported stays, and tracing makes little garbage: a tenth of the time went there.
gc.set_threshold(100_000, 20, 20)
# Most of a test is compiling; programs of tests run once or twice.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
jax.config.update("jax_disable_most_optimizations", True)
# Each program whole, since small ones take twice as long in up to 32 parts; where a test asks for
# optimizations, those that take half the time of all, and gain nearly as much.
flags = [os.environ.get("XLA_FLAGS", ""), "--xla_cpu_parallel_codegen_split_count=1",
         "--xla_backend_optimization_level=1"]
if jax.__version_info__ < (0, 11):  # halves the time of compiling; later versions have no such flag
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(flags)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)
# They wait for each other's messages on the threads of one pool: see `ddjax.runtime.hosts.join`.
os.environ["NPROC"] = "64"
jax.config.update("jax_cpu_enable_async_dispatch", False)


# Files that take half a minute or more, the longest first.
LONGEST = (
    "test_published", "test_quality", "test_ablate", "test_hosts", "test_main", "test_own_job",
    "test_benchmark_suite", "test_shapes", "test_tokenizer", "test_campaign", "test_stops",
    "test_demo_page",
)


def pytest_collection_modifyitems(items):
    """The longest files first, then those with slow tests, so that no worker ends long before."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    places = {name: place for place, name in enumerate(LONGEST, -len(LONGEST))}
    items.sort(key=lambda item: places.get(item.path.stem, item.path not in slow))


def pytest_collection_finish():
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def shared_folder(tmp_path_factory, pytestconfig):
    """For all workers: golden checkpoints; compiled programs, which the next run finds too."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    os.environ["GOLDEN_CHECKPOINTS"] = str(folder / "golden")
    # Commands that tests start read the environment; this process has read it.
    cache = str(pytestconfig.cache.mkdir("compiled"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return folder


@pytest.fixture(scope="module", autouse=True)
def programs():
    """Dropped once they are many: of memory, and of the 65,530 maps that a process may hold."""
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > 10_000:
        gc.unfreeze()
        jax.clear_caches()
    gc.collect()
    gc.freeze()  # what stays is not looked through again


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """For the workdirs of a file's tests."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def finished(shared_folder, tmp_path_factory):
    """The workdir and the output of the tiny job, run once for all workers: each has a copy."""
    made, printed = shared_folder / "finished", shared_folder / "finished.txt"
    with (shared_folder / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not printed.exists():
            code, output = run(made)
            assert code == 0, output
            printed.write_text(output)
    workdir = tmp_path_factory.mktemp("finished") / "whole"
    return shutil.copytree(made, workdir), printed.read_text()


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
