"""VAR's sizes, and its checkpoints there and back."""

import jax
import numpy as np
import pytest
from flax import nnx

from conversion import torch_to_flax
from conversion.read import read
from ddjax.models import var, var_trunk
from ddjax.runtime.errors import UserError
from tests import golden
from tests.golden_checkpoints import checkpoint
from tests.var_golden import SCALES


def count(kind, depth):
    config = var_trunk.VARConfig(
        vocab_size=4096, code_dim=32, num_classes=1000, **var_trunk.SIZES[f"d{depth}"]
    )
    model = jax.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0)))
    if kind is var.VARTeacher:
        model = model.trunk  # the quantiser is the tokenizer's
    return sum(leaf.size for leaf in jax.tree.leaves(model)) / 1e6


@pytest.mark.parametrize(
    ("depth", "published", "students"),
    [(16, 310, 327), (20, 600, 635), (24, 1030, 1090), (30, 2010, None)],
)
def test_parameter_counts(depth, published, students):
    """In millions, to half a percent."""
    assert count(var.VARTeacher, depth) == pytest.approx(published, rel=5e-3)
    if students:
        assert count(var.VARStudent, depth) == pytest.approx(students, rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "others"),
    [("var", "var", ["var_vqvae"]), ("var_student", "dd_var", []),
     ("var_tokenizer", "var_vqvae", [])],
)
def test_back_to_pytorch(tmp_path, kind, name, others):
    """Every tensor of the published file, bit for bit, and its buffers; nothing else."""
    golden.converted(tmp_path, name, kind, others, scales=SCALES)
    torch_to_flax.restore(tmp_path / name, tmp_path / "back.pt")
    found, wanted = read(tmp_path / "back.pt"), read(checkpoint(name))
    assert found.keys() == wanted.keys()
    for key in wanted.keys() - {"quantize.ema_vocab_hit_SV"}:  # a record that nothing reads
        assert found[key].dtype == wanted[key].dtype
        np.testing.assert_array_equal(found[key], wanted[key], err_msg=key)


@pytest.mark.parametrize(
    ("others", "scales", "message"),
    [([], (1, 2, 3, 4), "the quantiser is missing; put vae_ch160v4096z32.pth beside it, or give"),
     (["var_vqvae"], (1, 2, 4), r"has 4 scales with 30 tokens, which --scales=1,2,4 has not")],
)
def test_checkpoints_that_say_too_little_are_refused(tmp_path, others, scales, message):
    with pytest.raises(UserError, match=message):
        golden.converted(tmp_path, "var", "var", others, scales=scales)
