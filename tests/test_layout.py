"""Parameter layout: a model with names of its own says what decays, is cut and is stacked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from ddjax.config.schema import TrainSection
from ddjax.models.layers import stacked
from ddjax.runtime import flops, sharding, trees
from ddjax.runtime.layout import ParameterLayout
from ddjax.training import loop

CONFIG = TrainSection(steps=10, batch=8, learning_rate=0.1, warmup=0, weight_decay=0.5)
DEVICES, FSDP, LAYERS, WIDTH = 8, 4, 3, 16


class Product(nnx.Module):
    def __init__(self, rngs):
        self.matrix = nnx.Param(jax.random.normal(rngs.params(), (WIDTH, WIDTH)) / WIDTH**0.5)
        self.shift = nnx.Param(jnp.ones((WIDTH,)))

    def __call__(self, x):
        return jnp.tanh(x @ self.matrix[...] + self.shift[None])


class Unusual(nnx.Module):
    """Its matrices decay and are cut over the outputs; what is called a kernel is neither."""

    layout = ParameterLayout(
        decayed=("matrix",), cut=(("matrix", -1), ("table", -2)), stacks=("turns",)
    )

    def __init__(self, rngs):
        self.table = nnx.Param(jax.random.normal(rngs.params(), (8, WIDTH)))
        self.kernel = nnx.Param(jnp.ones((WIDTH, WIDTH)))
        self.first = Product(rngs)
        self.turns = stacked(Product, LAYERS, rngs)

    def __call__(self, rows):
        x = self.first(self.table[...][rows] @ self.kernel[...])

        def body(x, product, _):
            return product(x), None

        return sharding.scan_gathered(body, x, self.turns, None, layout=self.layout, unroll=1)[0]


WHOLE = PartitionSpec()
SPECS = {
    "table": PartitionSpec("fsdp"),
    "kernel": WHOLE,
    "first/matrix": PartitionSpec(None, "fsdp"),
    "first/shift": WHOLE,
    "turns/matrix": PartitionSpec(None, None, "fsdp"),
    "turns/shift": WHOLE,
}


@pytest.fixture(autouse=True)
def mesh():
    with jax.set_mesh(sharding.make_mesh(FSDP)):
        yield


def step(loss):
    """The parameters before a step, and the state after it."""
    state = loop.init_state(Unusual(nnx.Rngs(0)), CONFIG)
    before = {name: np.asarray(leaf) for name, leaf in trees.flatten(state.model).items()}
    state, _ = loop.train_step(
        state, None, {"rows": sharding.shard_batch(np.arange(8, dtype=np.int32), 8)},
        jax.random.key(0),
        sharding.shard_batch(np.zeros(DEVICES, bool), DEVICES), loss=loss, config=CONFIG,
    )
    return before, state


def still(model, frozen, batch, key):
    """Without a gradient, so that decay alone moves anything."""
    return 0.0 * jnp.sum(model.kernel[...]), {}


def lively(model, frozen, batch, key):
    return jnp.mean(model(batch["rows"]) ** 2), {}


def test_decay_follows_the_layout():
    before, state = step(still)
    for name, leaf in trees.flatten(state.model).items():
        kept = 1 - CONFIG.learning_rate * CONFIG.weight_decay if "matrix" in name else 1
        np.testing.assert_allclose(leaf, kept * before[name], rtol=1e-6, err_msg=name)


def test_cutting_follows_the_layout():
    _, state = step(lively)
    for part in (state.model, state.ema, state.opt_state[1][0].mu, state.opt_state[1][0].nu):
        assert {n: leaf.sharding.spec for n, leaf in trees.flatten(part).items()} == SPECS


def test_all_but_stacks_is_gathered_at_once():
    model = sharding.shard(Unusual(nnx.Rngs(0)), Unusual.layout)
    gathered = trees.flatten(jax.jit(sharding.gather_unstacked)(model))
    for name, leaf in gathered.items():
        assert leaf.sharding.spec == (SPECS[name] if "turns" in name else WHOLE), name


def test_blocks_of_a_stack_are_cut_until_each_is_gathered():
    """By the program: a compiler may see for itself what is cut."""

    def constraints(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "sharding_constraint":
                yield equation.invars[0].aval.shape, equation.params["sharding"].spec
            for body in flops.inner(equation):
                yield from constraints(body)

    jaxpr = jax.make_jaxpr(lambda model: model(np.arange(8)))(Unusual(nnx.Rngs(0)))
    found = list(constraints(jaxpr.jaxpr))
    matrix = [spec for shape, spec in found if shape == (WIDTH, WIDTH)]
    assert matrix == [SPECS["first/matrix"], WHOLE]
    assert [spec for shape, spec in found if shape == (WIDTH,)] == [WHOLE, WHOLE]


def test_the_names_that_flax_gives_are_the_default():
    layout = ParameterLayout()
    assert layout.decays("trunk/head/kernel") and not layout.decays("trunk/kernel/scale")
    assert layout.cut_axis("a/embedding") == -2 and layout.cut_axis("level_embed") is None
    assert layout.is_stacked("trunk/blocks/mlp/bias") and not layout.is_stacked("a/blocks_2/bias")
