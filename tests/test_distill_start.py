"""Students that distillation begins with: another student's weights in place of the teacher's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddjax.config.reading import from_dict
from ddjax.models import MODELS
from ddjax.runtime import trees
from ddjax.runtime.errors import UserError
from ddjax.stages import running
from ddjax.stages.distill import first_student
from ddjax.stages.registry import STAGES
from ddjax.storage import model_folder
from tests import tiny


def config(start, kind="llamagen_student", tokenizer="patch_tokenizer"):
    tree = tiny.get_config(tokenizer).to_dict()
    tree["student"]["kind"], tree["distill"]["start"] = kind, str(start)
    return from_dict(tree)


def saved(directory, kind, seed=5, tokenizer="patch_tokenizer"):
    """A model folder, and its model."""
    sizes = from_dict(tiny.get_config(tokenizer).to_dict()).teacher.model
    model = MODELS[kind](sizes, rngs=nnx.Rngs(seed))
    model_folder.save(directory, kind, model)
    return model


@pytest.fixture(scope="module")
def teacher():
    sizes = from_dict(tiny.get_config().to_dict()).teacher.model
    return MODELS["llamagen"](sizes, rngs=nnx.Rngs(0))


def test_a_student_begins_with_the_weights_of_the_folder(tmp_path, teacher):
    wanted = trees.flatten(saved(tmp_path / "s", "llamagen_student"))
    begun = first_student(config(tmp_path / "s"), teacher, rngs=nnx.Rngs(1))
    for name, array in trees.flatten(begun).items():
        np.testing.assert_array_equal(array, wanted[name], err_msg=name)
    of_teacher = trees.flatten(first_student(config(""), teacher, rngs=nnx.Rngs(1)))
    name = "trunk/head/kernel"
    np.testing.assert_array_equal(of_teacher[name], trees.flatten(teacher)[name])
    assert not np.array_equal(of_teacher[name], wanted[name])


def test_a_refining_student_begins_as_the_student_of_one_pass(tmp_path, teacher):
    one = saved(tmp_path / "s", "llamagen_student")
    begun = first_student(
        config(tmp_path / "s", "llamagen_refining_student"), teacher, rngs=nnx.Rngs(1)
    )
    x, last = jax.random.normal(jax.random.key(2), (2, 2, 16, 4))
    labels = jnp.array([3, 7])
    wanted = jax.jit(lambda student: student(x, 0, labels)[0])(one)
    found = jax.jit(lambda student: student.refined(x, last, labels)[0])(begun)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(("kind", "tokenizer"), [
    ("llamagen", "patch_tokenizer"), ("llamagen_refining_student", "patch_tokenizer"),
    ("var_student", "var_tokenizer"),
])
def test_another_model_is_refused(tmp_path, teacher, kind, tokenizer):
    saved(tmp_path / "s", kind, tokenizer=tokenizer)
    message = rf"distill\.start: .*/s holds a {kind}, must hold a llamagen_student"
    with pytest.raises(UserError, match=message):
        first_student(config(tmp_path / "s"), teacher, rngs=nnx.Rngs(1))


def test_the_settings_hold_the_digest_and_a_missing_folder_is_told_first(tmp_path):
    assert "distill.start" not in running.settings(config(""), STAGES["distill"])
    message = r"distill\.start: .*/s is missing; give the folder .*--model=llamagen_student"
    with pytest.raises(UserError, match=message):
        running.settings(config(tmp_path / "s"), STAGES["distill"])
    found = set()
    for name, seed in (("s", 5), ("moved", 5), ("other", 6)):
        saved(tmp_path / name, "llamagen_student", seed)
        found.add(running.settings(config(tmp_path / name), STAGES["distill"])["distill.start"])
    assert len(found) == 2
