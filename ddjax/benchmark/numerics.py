"""Numbers of an accelerator, checked against a CPU's: models, the flow map, refinement.

The tests hold a CPU's numbers against those of the original code, in float32; here the device's are
held against the CPU's, with products in full float32.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.benchmark import programs, published
from ddjax.config.schema import Config
from ddjax.method import flow, trajectory
from ddjax.method.guidance import Guided
from ddjax.method.random_distributions import random_distributions
from ddjax.method.sampling import Models
from ddjax.runtime import sharding

# The tiny models, whose numbers the tests know.
_KNOWN = ("llamagen:tiny", "var:tiny")


def check(names: tuple[str, ...], tokens: int, images: int) -> dict[str, Any]:
    """Everything that is checked, as JSON.

    Args:
      names: configs, one of each family, whose codebooks, solvers and teachers are taken.
      tokens: of the flow map.
      images: of the refinement.
    """
    with jax.default_matmul_precision("highest"):
        return {
            "largest_difference_to_cpu": {name: _models(name) for name in _KNOWN},
            "tokens": tokens,
            "ids_of_the_flow_map_equal_to": {
                name: _flow_map(published.read(name), tokens) for name in names
            },
            "kept_by_refinement": {
                name: _refinement(published.in_dtype(published.read(name), "float32"), images)
                for name in names
            },
        }


def _on_cpu(function: Callable[..., Any], given: Any, **static: Any) -> Any:
    """The function of these arguments, on a CPU, as NumPy arrays."""
    cpu = jax.devices("cpu")[-1]  # one of several simulated ones is not the device that is checked
    with jax.set_mesh(sharding.make_mesh(1, [cpu])):
        return jax.tree.map(np.asarray, function(*jax.device_put(given, cpu), **static))


def _models(name: str) -> dict[str, float]:
    """The largest difference of each output, in units of its largest number."""
    config = published.read(name)
    models, _ = programs.load(config)
    length, code_dim = config.groups.length, config.teacher.model.code_dim
    eps = jax.random.normal(jax.random.key(0), (2, length, code_dim))
    ids = jax.random.randint(jax.random.key(1), (2, length), 0, config.teacher.model.vocab_size)
    given = models, eps, ids, jnp.array([3, 7])
    found, wanted = _outputs(*given), _on_cpu(_outputs, given)
    return {
        output: float(np.abs(np.asarray(found[output]) - wanted[output]).max()
                      / np.abs(wanted[output]).max())
        for output in wanted
    }


@jax.jit
def _outputs(
    models: Models, eps_BLC: jax.Array, ids_BL: jax.Array, labels_B: jax.Array
) -> dict[str, jax.Array]:
    logits, vectors = models.student(eps_BLC, 0, labels_B)
    return {"teacher": models.teacher.logits(ids_BL, labels_B), "student": logits,
            "vectors": vectors, "image": models.tokenizer.decode(models.tokenizer.codebook[ids_BL])}


_ids = jax.jit(flow.noise_to_ids, static_argnames="solver")
_reference_ids = jax.jit(flow.reference_ids, static_argnames="solver")


def _flow_map(config: Config, tokens: int) -> dict[str, float]:
    """The shares of tokens whose ids are a CPU's in float64, and those of the reference here."""
    sizes = config.teacher.model
    given = random_distributions(sizes.vocab_size, sizes.code_dim, tokens)
    found = np.asarray(_ids(*given, solver=config.flow))
    reference = np.asarray(_reference_ids(*given, solver=config.flow))
    with jax.enable_x64(True):
        wide = [np.asarray(x).astype(np.float64) for x in given]
        wanted = _on_cpu(_reference_ids, wide, solver=config.flow)
    return {"cpu_float64": float(np.mean(found == wanted)),
            "reference": float(np.mean(found == reference)),
            "reference_and_cpu_float64": float(np.mean(reference == wanted))}


def _refinement(config: Config, images: int) -> float:
    """The share of the exact map's tokens that a pass of refinement keeps: all but for rounding."""
    models, _ = programs.load(config)
    conditions = programs.conditions(config)
    condition = jnp.asarray(conditions.take(conditions.number(np.arange(images))))
    shape = images, config.groups.length, config.teacher.model.code_dim
    eps = jax.random.normal(jax.random.key(2), shape)

    @functools.partial(jax.jit, static_argnames="again")
    def ids(models: Models, ids_BL: jax.Array | None, again: bool) -> jax.Array:
        guided, codes = Guided(models.teacher, config.guidance), models.tokenizer.codebook
        if again:
            return trajectory.refine(guided, condition, eps, codes, config.flow, ids_BL, 1)
        return trajectory.map_noise(guided, condition, eps, codes, config.flow)

    exact = ids(models, None, again=False)
    return float(np.mean(np.asarray(ids(models, exact, again=True) == exact)))
