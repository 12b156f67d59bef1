"""Programs lower for accelerators that are not here: what a CPU allows and they do not, shows."""

import functools
import importlib

import jax
import jax.numpy as jnp
import pytest

from ddjax.config.reading import from_dict
from ddjax.method import ways
from ddjax.method.sampling import Models, draw_images
from ddjax.plan import stages
from ddjax.runtime import platform
from ddjax.stages import distill_map, pair_generation
from ddjax.training import loop

BATCH = 4


def array(dtype, *shape):
    return jax.ShapeDtypeStruct(shape, dtype)


@functools.cache
def job(family):
    """Config and models of a tiny job, as types in place of arrays; bfloat16 as at full size."""
    tree = importlib.import_module(f"configs.{family}").get_config("tiny").to_dict()
    tree["teacher"]["model"]["dtype"] = "bfloat16"
    config = from_dict(tree)
    nets = stages.models(config)
    codes = jax.eval_shape(lambda tokenizer: tokenizer.codebook, nets["tokenizer"])
    eps = array(jnp.float32, BATCH, config.groups.length, codes.shape[1])
    return config, nets, codes, eps


def pairs(family):
    config, nets, codes, eps = job(family)
    return pair_generation.map_batch.trace(
        nets["teacher"], codes, eps, array(jnp.int32, BATCH), guidance=config.guidance,
        solver=config.flow,
    )


def training(family):
    config, nets, _, _ = job(family)
    section = config.distill.train
    state = jax.eval_shape(functools.partial(loop.first_state, config=section), nets["student"])
    rows = {"index": array(jnp.int32, BATCH), "condition": array(jnp.int32, BATCH),
            "ids": array(jnp.uint16, BATCH, config.groups.length)}
    return loop.train_step.trace(
        state, distill_map.Frozen(nets["tokenizer"], nets["perceptual net"]), rows,
        jax.eval_shape(jax.random.key, 0), array(jnp.bool_, 1),
        loss=distill_map.loss_of(config, noise_seed=0), config=section,
    )


def drawing(family, method):
    config, nets, _, eps = job(family)
    models = Models(nets["tokenizer"], nets["teacher"], nets["student"])
    labels = array(jnp.int32, BATCH)
    return draw_images.trace(
        models, jax.eval_shape(jax.random.key, 0), eps, labels, labels, labels,
        array(jnp.int32, BATCH, 0), way=ways.parse(method), settings=config.sampling,
    )


PROGRAMS = {
    "pairs": pairs,
    "training": training,
    **{name: functools.partial(drawing, method=name)
       for name in ("teacher_ar", "student_2step", "refine_1")},
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("family", ["llamagen", "var"])
def test_lowers(family, program):
    with platform.traced_for("gpu"):
        traced = PROGRAMS[program](family)
    for name in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(name,)).as_text()
        assert "stablehlo.dot_general" in text and "bf16" in text
        assert "f64" not in text
