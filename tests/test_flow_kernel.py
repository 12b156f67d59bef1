"""The kernel for GPUs against its reference, interpreted on a CPU, and lowered for a GPU."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.method import flow, flow_kernel
from ddjax.method.codes import normalise_codes
from ddjax.method.guidance import Guidance, truncate
from ddjax.method.random_distributions import random_distributions

pytestmark = pytest.mark.usefixtures("optimized")
SOLVER = flow.Solver(steps=10, order=3, reach=40.0)


def interpreted(eps, log_p, codes, solver=SOLVER):
    return flow_kernel.solve(
        jnp.asarray(eps), jnp.asarray(log_p), normalise_codes(jnp.asarray(codes)), solver.grid(),
        solver.weights(), interpret=True,
    )


def reference(eps, log_p, codes, solver=SOLVER):
    return flow.noise_to_ids(
        jnp.asarray(eps), jnp.asarray(log_p), jnp.asarray(codes), solver
    )


# Codes in one block and in several, all taken and not; axes that fill a block and that do not.
@pytest.mark.parametrize(("vocab", "code_dim", "top_k"), [
    (64, 8, 0), (2500, 8, 0), (2500, 5, 20), (600, 32, 400), (7, 1, 0),
])
def test_ids_are_those_of_the_reference(vocab, code_dim, top_k):
    eps, log_p, codes = random_distributions(vocab, code_dim, 24)
    log_p = truncate(log_p, Guidance(top_k=top_k))
    wanted = reference(eps, log_p, codes)
    np.testing.assert_array_equal(interpreted(eps, log_p, codes), wanted)
    assert len(np.unique(wanted)) > min(vocab, 10) // 2


def test_the_solver_of_the_published_jobs():
    eps, log_p, codes = random_distributions(200, 8, 16)
    for solver in (flow.Solver(), flow.Solver(steps=28, reach=40.0)):
        wanted = reference(eps, log_p, codes, solver)
        np.testing.assert_array_equal(interpreted(eps, log_p, codes, solver), wanted)


def test_what_is_no_distribution_gives_minus_one_in_its_row_alone():
    eps, log_p, codes = (np.array(x) for x in random_distributions(40, 4, 5))
    log_p[1, 7], log_p[2, 7], log_p[3] = np.nan, np.inf, -np.inf
    ids = interpreted(eps, log_p, codes)
    np.testing.assert_array_equal(ids, reference(eps, log_p, codes))
    np.testing.assert_array_equal(np.asarray(ids) < 0, [False, True, True, True, False])


def test_ties_go_to_the_first_and_one_hot_to_its_code():
    codes = np.zeros((600, 8), np.float32)  # all alike: nothing decides but the order
    codes[0, 0] = 1
    log_p = np.full((2, 600), -np.inf, np.float32)
    log_p[0, 40:] = 0
    log_p[1, 577] = 0
    eps = np.ones((2, 8), np.float32)
    np.testing.assert_array_equal(interpreted(eps, log_p, codes), [40, 577])


def test_it_is_what_a_gpu_is_given_and_a_cpu_is_not(monkeypatch):
    """Also that it lowers to Triton, for which no GPU is needed."""
    given = random_distributions(4096, 32, 3)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    device = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(flow.noise_to_ids, static_argnums=3).trace(*given, flow.Solver())
        assert "triton" in traced.lower(lowering_platforms=("cuda",)).as_text()
    for platform in ("cpu", "tpu"):
        assert "triton" not in traced.lower(lowering_platforms=(platform,)).as_text()
    for spoil in (lambda patch: patch.setenv("DDJAX_FLOW_KERNEL", "0"),
                  lambda patch: patch.setattr(importlib.util, "find_spec", lambda name: None)):
        with monkeypatch.context() as patch:
            spoil(patch)
            traced = jax.jit(lambda *x: flow.noise_to_ids(*x, flow.Solver())).trace(*given)
            assert "triton" not in traced.lower(lowering_platforms=("cuda",)).as_text()
