"""The flow map against independent solves, against its probabilities, and at its limits."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ddjax.method import flow
from ddjax.method.codes import normalise_codes
from ddjax.method.guidance import Guidance, truncate

pytestmark = pytest.mark.usefixtures("optimized")
SOLVER = flow.Solver()


def unit_codes(vocab, dim, seed=0):
    codes = np.random.default_rng(seed).normal(size=(vocab, dim))
    return codes / np.linalg.norm(codes, axis=1, keepdims=True)


def velocity_in_x(t, x, codes, log_p):
    """The field as the paper writes it, (E[c | x_t = x] - x) / (1 - t): no r, no y, no centring."""
    distance = jnp.sum((x[:, None] - t * codes[None]) ** 2, axis=-1)
    weights = jax.nn.softmax(log_p - distance / (2 * (1 - t) ** 2), axis=-1)
    return (weights @ codes - x) / (1 - t)


def solve_with_diffrax(eps, log_p, codes, end):
    """The x at t = end of a fine adaptive solve in (t, x)."""

    def field(t, x, args):
        del args
        return velocity_in_x(t, x, codes, log_p)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field), diffrax.Dopri8(), 0.0, end, 1e-3, eps, max_steps=200_000,
        stepsize_controller=diffrax.PIDController(rtol=1e-8, atol=1e-8),
    )
    return solution.ys[-1]


def ids_by_diffrax(eps, log_p, codes, end=0.9995):
    """The likeliest code at the end of the fine solve."""
    x = solve_with_diffrax(eps, log_p, codes, end)
    distance = jnp.sum((x[:, None] - end * codes[None]) ** 2, axis=-1)
    return jnp.argmax(log_p - distance / (2 * (1 - end) ** 2), axis=-1)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_agrees_with_a_fine_solve_in_x_and_t(x64, temperature):
    rng = np.random.default_rng(1)
    codes = jnp.asarray(1.7 * unit_codes(48, 5) + 0.4)
    log_p = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(400, 48)) / temperature * 2))
    eps = jnp.asarray(rng.normal(size=(400, 5)))
    fine = ids_by_diffrax(eps, log_p, codes)
    np.testing.assert_array_equal(
        flow.noise_to_ids(eps, log_p, codes, flow.Solver(steps=2000)), fine
    )
    ours = flow.noise_to_ids(
        eps.astype(jnp.float32), log_p.astype(jnp.float32), codes.astype(jnp.float32), SOLVER
    )
    assert np.mean(ours == fine) >= 0.995  # 2 of 400


def test_on_a_line_the_id_is_the_quantile_of_the_noise():
    """Paths on a line never cross. Codes of all norms; more tokens than are solved at once."""
    rng, count = np.random.default_rng(8), 3 * flow.PORTION + 10
    line = np.cumsum(rng.uniform(0.2, 0.5, size=20))
    order, p = rng.permutation(20), rng.dirichlet(2 * np.ones(20))  # p from left to right
    codes, log_p = np.zeros((20, 1)), np.zeros(20)
    codes[order, 0], log_p[order] = line, np.log(p)
    eps = rng.normal(size=(count, 1))
    quantile, edges = scipy.stats.norm.cdf(eps[:, 0]), np.cumsum(p)
    ids = flow.noise_to_ids(
        *(jnp.asarray(x, jnp.float32) for x in (eps, np.tile(log_p, (count, 1)), codes)), SOLVER
    )
    clear = np.abs(quantile[:, None] - edges).min(axis=1) > 0.002
    assert clear.mean() > 0.9
    wanted = order[np.searchsorted(edges[:-1], quantile)]
    np.testing.assert_array_equal(np.asarray(ids)[clear], wanted[clear])


@pytest.mark.parametrize(("order", "expected"), [(1, 1), (2, 2), (3, 3), (5, 3)])
def test_order_of_convergence(x64, order, expected):
    """Halving the steps divides the error of y by 2^order; the start is of order 3 at best."""
    codes = normalise_codes(jnp.asarray(unit_codes(16, 3)))
    rng = np.random.default_rng(2)
    log_p = jnp.log(rng.dirichlet(np.ones(16), size=5))
    eps = jnp.asarray(rng.normal(size=(5, 3)))
    # At t = 2/3, so that r = t / (1 - t) = 2 and y = x / (1 - t).
    exact = 3 * solve_with_diffrax(eps, log_p, codes, 2 / 3)
    steps = np.array([40, 80, 160, 320])
    errors = [
        np.linalg.norm(flow._integrate(eps, log_p, codes, UniformSolver(n, order))[0] - exact)
        for n in steps
    ]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(-slope - expected) < 0.15


class UniformSolver(flow.Solver):
    """The same weights on a uniform grid from 0 to 2, where the order shows."""

    def grid(self):
        return np.linspace(0, 2, self.steps + 1)


def test_second_order_weights_are_the_textbook_ones():
    """Taylor's at the start."""
    h = 0.5
    np.testing.assert_allclose(
        UniformSolver(4, 2).weights(),
        [[h, 0, h**2 / 2]] + 3 * [[1.5 * h, -0.5 * h, 0]],
        atol=1e-12,
    )


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_weights_integrate_polynomials_exactly(order):
    """On the grid that is really used; while the order rises, with the derivative at 0."""
    solver = flow.Solver(steps=12, order=order)
    grid, weights = solver.grid(), solver.weights()
    for i in range(solver.steps):
        known = min(i + 1, order)
        for power in range(min(i + 2, order)):
            sums = weights[i, :known] @ grid[i - np.arange(known)] ** power
            sums += weights[i, order] * (power == 1)
            wanted = (grid[i + 1] ** (power + 1) - grid[i] ** (power + 1)) / (power + 1)
            np.testing.assert_allclose(sums, wanted, rtol=1e-8)
        assert not weights[i, known:order].any()


def test_the_grid_is_even_at_first_then_each_step_longer_by_the_same_factor():
    grid = flow.Solver(steps=64, reach=100.0).grid()
    steps = np.diff(grid)
    assert (grid[0], grid[-1]) == (0, pytest.approx(100))
    np.testing.assert_allclose(steps[:8], steps[0], rtol=0.2)
    factor = np.exp(np.arcsinh(100 / 3) / 64)
    np.testing.assert_allclose(steps[-8:] / steps[-9:-1], factor, rtol=2e-3)


def distributions(vocab):
    rng = np.random.default_rng(3)
    logits = rng.normal(size=vocab)
    top_k = np.asarray(truncate(jnp.asarray(3 * logits), Guidance(top_k=vocab // 4)))
    return {
        "peaked": 6 * logits,
        "flat": np.zeros(vocab),
        "one_hot": np.where(np.arange(vocab) == 7, 0.0, -np.inf),
        "top_k": top_k,
        "plain": logits,
    }


@pytest.mark.parametrize("name", ["peaked", "flat", "one_hot", "top_k", "plain"])
def test_frequencies_match_p(name):
    """Chi-square over 100,000 noises; one seed in 1,000 would fail by chance, this one is fixed."""
    vocab, count = 64, 100_000
    log_p = jax.nn.log_softmax(jnp.asarray(distributions(vocab)[name], jnp.float32))
    eps = jax.random.normal(jax.random.key(4), (count, 8))
    ids = jax.jit(flow.noise_to_ids, static_argnums=3)(
        eps, jnp.broadcast_to(log_p, (count, vocab)), jnp.asarray(unit_codes(vocab, 8)), SOLVER
    )
    found = np.bincount(ids, minlength=vocab)
    expected = np.exp(np.asarray(log_p, np.float64))
    expected *= count / expected.sum()
    assert found[expected == 0].sum() == 0
    rare = expected < 5
    found = np.append(found[~rare], found[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    found, expected = found[expected > 0], expected[expected > 0]
    if len(found) == 1:
        assert found[0] == count
    else:
        assert scipy.stats.chisquare(found, expected).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("norm", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("vocab", [1, 2, 50])
def test_extreme_inputs_give_a_valid_token(dtype, norm, vocab):
    codes = jnp.asarray(norm * unit_codes(vocab, 4), dtype)
    rng = np.random.default_rng(5)
    logits = jnp.asarray(rng.normal(size=(200, vocab)), dtype)
    if vocab > 2:
        logits = logits.at[:, ::3].set(-jnp.inf)
    eps = jnp.asarray(rng.normal(size=(200, 4)) * np.repeat([1, 10], 100)[:, None], dtype)
    ids = np.asarray(flow.noise_to_ids(eps, jax.nn.log_softmax(logits), codes, SOLVER))
    assert ids.dtype == np.int32 and ids.min() >= 0 and ids.max() < vocab
    assert np.isfinite(np.asarray(logits, np.float32)[np.arange(200), ids]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_log_probability_gives_minus_one_in_its_row_alone(bad):
    log_p = np.zeros((3, 10), np.float32)
    log_p[1, 7] = bad
    eps = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    codes = jnp.asarray(unit_codes(10, 4), jnp.float32)
    ids = flow.noise_to_ids(jnp.asarray(eps), jnp.asarray(log_p), codes, SOLVER)
    alone = flow.noise_to_ids(jnp.asarray(eps), jnp.zeros((3, 10)), codes, SOLVER)
    np.testing.assert_array_equal(ids, [alone[0], -1, alone[2]])


def test_mixed_norms_one_far_code_among_tiny_ones():
    codes = jnp.asarray(np.array([[1e3, 0], [1e-3, 0], [0, 1e-3]], np.float32))
    eps = jax.random.normal(jax.random.key(0), (20_000, 2))
    log_p = jnp.broadcast_to(jnp.log(jnp.array([0.3, 0.4, 0.3])), (20_000, 3))
    ids = np.asarray(flow.noise_to_ids(eps, log_p, codes, SOLVER))
    assert abs(np.mean(ids == 0) - 0.3) < 0.015  # 4 standard errors


def test_map_does_not_change_when_the_codebook_moves_or_grows():
    rng = np.random.default_rng(6)
    codes = jnp.asarray(unit_codes(32, 4), jnp.float32)
    log_p = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(500, 32)), jnp.float32))
    eps = jnp.asarray(rng.normal(size=(500, 4)), jnp.float32)
    ids = flow.noise_to_ids(eps, log_p, codes, SOLVER)
    np.testing.assert_array_equal(flow.noise_to_ids(eps, log_p, 16 * codes + 40, SOLVER), ids)


@pytest.mark.slow
@pytest.mark.parametrize(("vocab", "dim", "scale"), [(16384, 8, 1.0), (4096, 32, 0.8)])
def test_default_solver_at_published_codebook_sizes(x64, vocab, dim, scale):
    """99.9 % of tokens agree with a fine solve; then more than 4 of 1,000 differ once in 270."""
    rng = np.random.default_rng(7)
    codes = scale * unit_codes(vocab, dim) * rng.uniform(0.8, 1.2, size=(vocab, 1))
    count, flipped = 1000, 0
    for _ in range(5):
        direction = rng.normal(size=(count // 5, dim))
        logits = rng.uniform(0.5, 4, size=(count // 5, 1)) * (
            rng.normal(size=(count // 5, vocab)) + 1.5 * direction @ codes.T
        )
        log_p = truncate(jnp.asarray(logits), Guidance(top_k=vocab // 2)).astype(jnp.float64)
        eps = jnp.asarray(rng.normal(size=(count // 5, dim)))
        fine = flow.noise_to_ids(eps, log_p, jnp.asarray(codes), flow.Solver(200, 4, 1000.0))
        ours = flow.noise_to_ids(
            eps.astype(jnp.float32), log_p, jnp.asarray(codes, jnp.float32), SOLVER
        )
        flipped += int((np.asarray(fine) != np.asarray(ours)).sum())
    assert flipped <= 4
