"""Memory is told from the program alone: what is kept, what is fused, what a scan makes."""

import jax
import jax.numpy as jnp
import pytest

from ddjax.plan import memory

X, W = jnp.ones((8, 32)), jnp.ones((32, 32))
ONE = 8 * 32 * 4


def peak(function, *args):
    return memory.peak(jax.make_jaxpr(function)(*args).jaxpr)


def test_a_value_lives_until_its_last_use():
    def chain(x, w):
        a = x @ w
        b = a @ w
        c = b @ w
        return c @ w, c

    def kept(x, w):
        a = x @ w
        b = a @ w
        c = b @ w
        return (c @ a.T) @ w[:8]

    assert peak(chain, X, W) == 2 * ONE  # two at a time; arguments and results do not count
    assert peak(kept, X, W) == 3 * ONE


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
def test_element_wise_work_keeps_what_it_reads(wrap):
    def layer(x, w):
        return jnp.tanh(2 * (x @ w) + 1)

    assert peak(lambda x, w: jnp.sum(wrap(layer)(x, w)), X, W) == ONE
    # A product does not compute what it reads: both are there for its time.
    assert peak(lambda x, w: wrap(layer)(x, w) @ w, X, W) == 2 * ONE


def test_the_activations_of_a_scan_are_kept_for_all_turns():
    def loss(w_LDD, x):
        out, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w_LDD)
        return jnp.sum(out)

    def of_layers(layers):
        return peak(jax.grad(loss), jnp.ones((layers, 32, 32)), X)

    kept = (of_layers(12) - of_layers(4)) / 8
    # A layer's input for the gradient of the weights; for that of tanh, its tanh and one less it,
    # from jax 0.12 on one less its square alone.
    assert kept == (3 if jax.__version_info__ < (0, 12) else 2) * ONE


def test_what_a_scan_carries_is_updated_in_place():
    def decode(x, w):
        cache = jnp.cumsum(x @ w, axis=0)
        return jax.lax.scan(
            lambda cache, i: (jax.lax.dynamic_update_index_in_dim(cache, x[0], i, 0), None),
            cache, jnp.arange(8),
        )[0] @ w

    assert peak(decode, X, W) == 2 * ONE  # while the cache is made, not while it is carried


def test_a_branch_and_a_body_need_their_largest():
    def body(x, w):
        return ((x @ w) @ w) @ w

    assert peak(body, X, W) == 2 * ONE
    branch = peak(lambda x, w: jax.lax.cond(x[0, 0] > 0, body, lambda x, w: x, x, w), X, W)
    assert 2 * ONE <= branch < 2 * ONE + 64


def test_the_compiler_agrees():
    """A small MLP's training step, whose products leave the compiler little choice."""

    def loss(ws, x):
        for w in ws:
            x = jnp.tanh(x @ w)
        return jnp.sum(x**2)

    x, ws = jnp.ones((256, 128)), [jnp.ones((128, 128))] * 6
    compiled = jax.jit(jax.grad(loss)).lower(ws, x).compile().memory_analysis()
    assert peak(jax.grad(loss), ws, x) == pytest.approx(compiled.temp_size_in_bytes, rel=0.3)


def test_sizes():
    assert memory.size({"a": X, "b": jax.ShapeDtypeStruct((3,), jnp.bfloat16)}) == ONE + 6
