"""One device against eight: the same numbers, a share of the memory, one program."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from ddjax.config.schema import TrainSection
from ddjax.data import batches
from ddjax.data.sources import Arrays
from ddjax.method import flow, ways
from ddjax.method.baselines import Marginals
from ddjax.method.guidance import Guidance
from ddjax.method.sampling import Models, draw_images
from ddjax.models.llamagen import LlamaGenStudent, LlamaGenTeacher
from ddjax.models.llamagen_trunk import LlamaGenConfig
from ddjax.models.var import VARStudent
from ddjax.models.var_trunk import VARConfig
from ddjax.runtime import sharding, trees
from ddjax.runtime.errors import UserError
from ddjax.stages import distill_map, pair_generation
from ddjax.storage import checkpoint
from ddjax.training import loop
from tests.test_distill import setting
from tests.test_storage import assert_trees_equal

pytestmark = pytest.mark.slow
DEVICES = 8
CONFIG = TrainSection(steps=10, batch=8, learning_rate=1e-2, warmup=0, weight_decay=0.1)


def mesh(devices, fsdp=1):
    return jax.set_mesh(sharding.make_mesh(fsdp, jax.devices()[:devices]))


def test_a_device_has_its_share_of_empty_rows_which_are_not_sharded():
    """Programs that shard empty arrays crash jaxlib 0.11.2 on several devices."""
    rows = np.arange(32, dtype=np.int32).reshape(16, 2)
    with mesh(DEVICES):
        join = sharding.per_device(lambda *both: jnp.concatenate(both, axis=1), replicated=0)
        run = jax.jit(join)
        given = sharding.shard_batch((rows[:, :0], rows), len(rows))
        (equation,) = run.trace(*given).jaxpr.eqns
        assert equation.primitive.name == "shard_map"
        assert all(value.aval.size for value in equation.invars)
        np.testing.assert_array_equal(run(*given), rows)


def batch_of(count):
    index = np.arange(count, dtype=np.int32)
    ids = np.random.default_rng(0).integers(0, 16, (count, 16)).astype(np.uint16)
    return {"index": index, "condition": index % 10, "ids": ids}


@functools.cache
def distillation():
    config, student, frozen, _ = setting()
    return student, frozen, distill_map.loss_of(config, noise_seed=0)


def steps(devices, fsdp, count, state=None, accumulate=1):
    """The state and losses of some steps of distillation, as the loop runs them."""
    student, frozen, loss = distillation()
    config = TrainSection(**{**vars(CONFIG), "accumulate": accumulate})
    losses = []
    with mesh(devices, fsdp):
        frozen = sharding.replicate(frozen)
        state = state or loop.init_state(student, config)
        rows = sharding.shard_batch(batch_of(8), 8)
        for _ in range(count):
            state, scalars = loop.train_step(
                state, frozen, rows, jax.random.key(1),
                sharding.shard_batch(np.zeros(devices, bool), devices), loss=loss, config=config,
            )
            losses.append(float(scalars["loss"]))
    return state, losses


@functools.cache
def gradients(devices, fsdp):
    student, frozen, loss = distillation()
    with mesh(devices, fsdp):
        model = sharding.shard(student, student.layout)
        arguments = model, sharding.replicate(frozen), sharding.shard_batch(batch_of(8), 8)
        found = jax.jit(jax.grad(lambda *a: loss(*a, jax.random.key(1))[0]))(*arguments)
    return {name: np.asarray(leaf) for name, leaf in trees.flatten(found).items()}


@pytest.mark.parametrize("fsdp", [1, 2, 8])
def test_gradients_are_those_of_one_device(fsdp):
    one, eight = gradients(1, 1), gradients(DEVICES, fsdp)
    for name, wanted in one.items():
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(eight[name], wanted, rtol=1e-5, atol=1e-5 * scale, err_msg=name)


def test_what_is_trained_is_cut_and_all_else_is_whole():
    state, _ = steps(DEVICES, 4, 2)
    found = {name: leaf.sharding.spec for name, leaf in trees.flatten(state).items()}
    kernel = PartitionSpec(None, "fsdp")
    for part in ("model", "ema", "opt_state/1/0/mu", "opt_state/1/0/nu"):
        block = f"{part}/trunk/transformer/blocks"
        assert found[f"{block}/attention/wqkv/kernel"] == kernel
        assert found[f"{block}/mlp/w2/kernel"] == kernel
        assert found[f"{part}/trunk/head/kernel"] == PartitionSpec("fsdp")
        for name in ("condition/embed/embedding", "norm/scale"):
            assert found[f"{part}/trunk/{name}"] == PartitionSpec()


SIZES = {"vocab_size": 64, "code_dim": 8, "width": 128, "layers": 4, "heads": 4, "num_classes": 9}
STUDENTS = {
    "llamagen": (LlamaGenStudent, LlamaGenConfig(grid=3, **SIZES)),
    "var": (VARStudent, VARConfig(scales=(1, 2, 3), **SIZES)),
}


@functools.cache
def program(family, fsdp):
    """The compiled step of a student, and how many bytes of it are whole on every device."""
    cls, sizes = STUDENTS[family]
    student = cls(sizes, rngs=nnx.Rngs(0))

    def loss(model, frozen, batch, key):
        logits, vectors = model(batch["x"], 0, batch["label"])
        return jnp.mean(logits**2) + jnp.mean(vectors**2), {}

    with mesh(DEVICES, fsdp):
        state = loop.init_state(student, CONFIG)
        length = student.groups.length
        rows = {"x": np.zeros((16, length, 8), np.float32), "label": np.zeros(16, np.int32)}
        compiled = loop.train_step.lower(
            state, None, sharding.shard_batch(rows, 16), jax.random.key(0),
            sharding.shard_batch(np.zeros(8, bool), 8), loss=loss, config=CONFIG,
        ).compile()
        whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state)
                    if leaf.sharding.is_fully_replicated)
        return compiled, whole, sum(leaf.nbytes for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("family", STUDENTS)
def test_a_device_holds_its_share_of_what_is_trained(family):
    """By the compiled program's own figures: 1 / fsdp of all but norms, biases, small tables."""
    for fsdp in (4, 8):
        compiled, whole, total = program(family, fsdp)
        assert whole < 0.05 * total
        wanted, figures = whole + (total - whole) / fsdp, compiled.memory_analysis()
        for found in (figures.argument_size_in_bytes, figures.output_size_in_bytes):
            assert wanted <= found < wanted + 4000  # batch, key, scalars


@pytest.mark.parametrize("family", STUDENTS)
def test_devices_send_parameters_and_gradients_and_no_activations(family):
    compiled, _, _ = program(family, 4)
    length = STUDENTS[family][1].groups.length
    gathered = set()
    for shape, kind in re.findall(
        r"= \w+\[([\d,]*)\]\S* (all-gather|all-to-all|collective-permute)\(", compiled.as_text()
    ):
        assert kind == "all-gather", (kind, shape)
        sizes = [int(size) for size in shape.split(",")]
        assert not {length, length + 1} & set(sizes), shape
        gathered.add(tuple(sizes))
    assert (128, 3 * 128) in gathered  # a block's, and never the stack of four
    assert (4, 128, 3 * 128) not in gathered


def test_a_step_compiles_once_and_its_state_stays_where_it_is():
    before = loop.train_step._cache_size()
    loss = functools.partial(distillation()[2])  # one that no other test has used
    student, frozen, _ = distillation()
    with mesh(DEVICES, 2):
        state, frozen = loop.init_state(student, CONFIG), sharding.replicate(frozen)
        told = sharding.shard_batch(np.zeros(DEVICES, bool), DEVICES)
        for _ in range(5):
            rows = sharding.shard_batch(batch_of(8), 8)
            state, _ = loop.train_step(
                state, frozen, rows, jax.random.key(1), told, loss=loss, config=CONFIG
            )
    assert loop.train_step._cache_size() == before + 1


def test_continues_on_fewer_and_fewer_devices(tmp_path):
    """8, then 4, then 1: what is restored is bit-equal, and the next losses are."""
    state, _ = steps(8, 2, 2)
    saved = jax.tree.map(np.asarray, state)
    saver = checkpoint.Checkpoints(tmp_path, 2)
    saver.save(2, state, {})
    saver.close()
    losses = {}
    for devices, fsdp in ((8, 2), (4, 4), (1, 1)):
        with mesh(devices, fsdp):
            reader = checkpoint.Checkpoints(tmp_path, 2)
            restored, _ = reader.restore(loop.init_state(distillation()[0], CONFIG))
            reader.close()
        assert_trees_equal(restored, saved)
        assert len(restored.model.trunk.head.kernel[...].sharding.device_set) == devices
        _, losses[devices] = steps(devices, fsdp, 2, restored)
    np.testing.assert_allclose(losses[4], losses[8], rtol=1e-5)
    np.testing.assert_allclose(losses[1], losses[8], rtol=1e-5)


def test_a_batch_in_parts_is_the_mean_of_its_parts():
    """Without chance in the loss both ways are one; each part lies over all devices."""
    student = LlamaGenStudent(setting()[0].teacher.model, rngs=nnx.Rngs(0))

    def loss(model, frozen, batch, key):
        logits, _ = model(batch["x"], 3, batch["label"])
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1)), {"largest": jnp.mean(logits**2)}

    rng = np.random.default_rng(0)
    rows = {"x": rng.normal(size=(16, 16, 4)).astype(np.float32),
            "label": np.arange(16, dtype=np.int32) % 10}
    found = []
    for parts in (1, 2):
        config = TrainSection(steps=4, batch=16, learning_rate=1e-2, warmup=0, accumulate=parts)
        with mesh(DEVICES, 2):
            state, scalars = loop.train_step(
                loop.init_state(student, config), None, sharding.shard_batch(rows, 16),
                jax.random.key(0), sharding.shard_batch(np.zeros(8, bool), 8), loss=loss,
                config=config,
            )
        found.append((scalars, trees.flatten(state.opt_state)))
    for name in ("loss", "largest", "gradient_norm"):
        np.testing.assert_allclose(found[1][0][name], found[0][0][name], rtol=1e-5)
    for name, moment in found[0][1].items():
        np.testing.assert_allclose(found[1][1][name], moment, rtol=2e-4, atol=1e-7, err_msg=name)


def test_pairs_do_not_depend_on_the_number_of_devices():
    """At the same batch a device, to the last bit."""
    config, _, frozen, _ = setting()
    teacher = LlamaGenTeacher(config.teacher.model, rngs=nnx.Rngs(3))
    made = []
    for devices in (1, 2, 8):
        with mesh(devices):
            models = sharding.replicate((teacher, frozen.tokenizer.codebook))
            ids = []
            for first in range(0, 32, 4 * devices):
                index = np.arange(first, first + 4 * devices, dtype=np.int32)
                rows = sharding.shard_batch(index, len(index))
                eps = pair_generation.noise_of(0, rows, 16, 4)
                ids.append(np.asarray(pair_generation.map_batch(
                    *models, eps, rows % 10,
                    guidance=Guidance(scale=1.5, top_k=9), solver=flow.Solver(steps=12),
                )))
        made.append(np.concatenate(ids))
    assert len(np.unique(made[0])) > 8
    np.testing.assert_array_equal(made[1], made[0])
    np.testing.assert_array_equal(made[2], made[0])


@pytest.mark.parametrize("name", ["teacher_ar", "refine_1", "onestep_class"])
def test_samples_do_not_depend_on_the_number_of_devices(name):
    config, student, frozen, _ = setting()
    teacher = LlamaGenTeacher(config.teacher.model, rngs=nnx.Rngs(3))
    pool = np.random.default_rng(0).integers(0, 16, (40, 16)).astype(np.uint16)
    marginals = Marginals.of_pairs(pool, np.arange(40) % 10, 10)
    drawn = []
    for devices in (1, 8):
        with mesh(devices):
            models = sharding.replicate(Models(frozen.tokenizer, teacher, student, marginals))
            ids = []
            for first in range(0, 16, 2 * devices):
                index = np.arange(first, first + 2 * devices, dtype=np.int32)
                rows, nothing = sharding.shard_batch(
                    (index, np.zeros((len(index), 0), np.int32)), len(index)
                )
                ids.append(np.asarray(draw_images(
                    models, jax.random.key(2), pair_generation.noise_of(0, rows, 16, 4), rows % 10,
                    rows % 10, rows, nothing, way=ways.parse(name), settings=config.sampling,
                ).ids))
        drawn.append(np.concatenate(ids))
    np.testing.assert_array_equal(drawn[1], drawn[0])
    assert len(np.unique(drawn[0], axis=0)) > 8  # devices draw apart


def test_rows_go_to_their_devices_in_order():
    with mesh(8, 2):
        array = sharding.shard_batch(np.arange(16) ** 2, 16)
        np.testing.assert_array_equal(sharding.local_rows(16), np.arange(16))
        np.testing.assert_array_equal(sharding.to_host(array), np.arange(16) ** 2)
        assert {tuple(np.asarray(s.data)) for s in array.addressable_shards} == {
            (i**2, (i + 1) ** 2) for i in range(0, 16, 2)
        }


def test_a_process_reads_its_rows_alone(monkeypatch):
    """As if this process had every other device."""
    source = Arrays({"row": np.arange(12)})
    whole = batches.batches(source, 4, seed=3)
    parts = []
    for local in ([0, 2], [1, 3]):
        monkeypatch.setattr(sharding, "local_rows", lambda size, local=local: np.array(local))
        parts.append(batches.batches(source, 4, seed=3))
    for i in range(6):
        np.testing.assert_array_equal(parts[0][i]["row"], whole[i]["row"][[0, 2]])
        np.testing.assert_array_equal(parts[1][i]["row"], whole[i]["row"][[1, 3]])


def test_a_mesh_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"fsdp: got 3, which does not divide 8 devices; data x "
                                        "fsdp may be 8 x 1, 4 x 2, 2 x 4, 1 x 8$"):
        sharding.make_mesh(3)
    with mesh(8), pytest.raises(UserError, match=r"train\.batch 12 cannot be shared by 8 dev"):
        loop.check_batch("test", TrainSection(steps=1, batch=12, learning_rate=1.0), 8)
    with pytest.raises(UserError, match=r"batch 24 in 2 parts .* multiple of 16, such as 32$"):
        loop.check_batch("t", TrainSection(steps=1, batch=24, learning_rate=1.0, accumulate=2), 8)
