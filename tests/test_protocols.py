"""Every model against the protocol that it is used by: its members, shapes, and what they mean."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddjax.method import codes, protocols, sampling
from ddjax.method.guidance import Guidance, Guided
from ddjax.models import MODELS
from ddjax.models.classifier import Classifier, ClassifierConfig
from ddjax.models.clip import CLIP, CLIPConfig
from ddjax.models.inception import Inception, InceptionConfig
from ddjax.models.llamagen import LlamaGenRefiningStudent, LlamaGenStudent, LlamaGenTeacher
from ddjax.models.llamagen_trunk import LlamaGenConfig
from ddjax.models.lpips import LPIPS, LPIPSConfig
from ddjax.models.multiscale_vq import MultiscaleTokenizer, MultiscaleTokenizerConfig
from ddjax.models.patch_vq import PatchTokenizer, PatchTokenizerConfig
from ddjax.models.t5 import T5Config, T5Encoder
from ddjax.models.var import VARRefiningStudent, VARStudent, VARTeacher
from ddjax.models.var_trunk import VARConfig
from ddjax.models.vq import VQTokenizer, VQTokenizerConfig
from ddjax.runtime import trees
from tests.toy import ToyConfig, ToyTeacher

V, C, BATCH = 12, 4, 2
SIZES = {"vocab_size": V, "code_dim": C, "width": 16, "layers": 2, "heads": 2}
CLASSES = LlamaGenConfig(grid=2, num_classes=2, **SIZES)
CAPTIONS = LlamaGenConfig(grid=2, caption_tokens=3, caption_dim=6, **SIZES)
SCALES = VARConfig(scales=(1, 2, 3), num_classes=2, **SIZES)

TEACHERS = {
    "llamagen": (LlamaGenTeacher, CLASSES),
    "llamagen on captions": (LlamaGenTeacher, CAPTIONS),
    "var": (VARTeacher, SCALES),
    "toy": (ToyTeacher, ToyConfig((1,) * 5, V)),
    "toy groups": (ToyTeacher, ToyConfig((1, 3, 3, 4), V)),
}
STUDENTS = {
    "llamagen": LlamaGenStudent, "llamagen on captions": LlamaGenStudent, "var": VARStudent,
}
REFINING = {
    "llamagen": LlamaGenRefiningStudent, "llamagen on captions": LlamaGenRefiningStudent,
    "var": VARRefiningStudent,
}
IMAGES = {"image_size": 12, "image_channels": 3, "vocab_size": V, "code_dim": C}
BLOCKS = {"channels": 8, "multipliers": (1, 1, 2), "blocks": 1, "z_channels": 8, "norm_groups": 4}
TOKENIZERS = {
    "vq": (VQTokenizer, VQTokenizerConfig(**IMAGES, **BLOCKS)),
    "patch": (PatchTokenizer, PatchTokenizerConfig(patch=4, width=8, **IMAGES)),
    "multiscale": (
        MultiscaleTokenizer, MultiscaleTokenizerConfig(scales=(1, 2, 3), **IMAGES, **BLOCKS)
    ),
}
ENCODERS = {"t5": (T5Encoder, T5Config(50, 16, 2, 8, 2, 24))}
SCORERS = {"clip": (CLIP, CLIPConfig(6, 8, 4, 16, 2, 2, 50, 5, 24, 3, 1))}
NETS = {
    "classifier": (Classifier, ClassifierConfig(12, 3, 7, channels=4, features=8)),
    "lpips": (LPIPS, LPIPSConfig((8, 8), (1, 1))),
    "inception": (Inception, InceptionConfig(divisor=16)),
}


@functools.cache
def lively(cls, config):
    """A model no part of which is zero, as some are at first; by NumPy, since that is fast."""
    shapes, rng = jax.eval_shape(lambda: cls(config, rngs=nnx.Rngs(0))), np.random.default_rng(0)

    def leaf(path, x):
        values = 0.4 * rng.normal(size=x.shape)
        positive = trees.path_name(path).endswith("variance")
        return jnp.asarray(np.abs(values) if positive else values, x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def conditions(config, batch=BATCH):
    """One for each image, no two alike."""
    if not getattr(config, "caption_tokens", 0):
        return jnp.arange(batch) % 2
    shape = (batch, config.caption_tokens, config.caption_dim)
    mask = jnp.arange(config.caption_tokens)[None] >= jnp.arange(batch)[:, None] % 2
    return {"features": jax.random.normal(jax.random.key(3), shape), "mask": mask}


def ids_of(config, batch=BATCH):
    return jax.random.randint(jax.random.key(1), (batch, config.groups.length), 0, V)


def case(name):
    cls, config = TEACHERS[name]
    return lively(cls, config), config, config.groups


def student_case(name):
    config = TEACHERS[name][1]
    return lively(STUDENTS[name], config), config, config.groups


def all_models():
    students = {name: (cls, TEACHERS[name][1]) for name, cls in STUDENTS.items()}
    for protocol, cases in (
        (protocols.Teacher, TEACHERS), (protocols.Student, students),
        (protocols.Tokenizer, TOKENIZERS), (protocols.FeatureNet, NETS),
        (protocols.TextEncoder, ENCODERS), (protocols.ImageTextNet, SCORERS),
    ):
        for name, (cls, config) in cases.items():
            yield pytest.param(protocol, cls, config, id=f"{protocol.__name__} {name}")


@pytest.mark.parametrize(("protocol", "cls", "config"), all_models())
def test_a_model_has_all_that_its_protocol_asks_for(protocol, cls, config):
    model = lively(cls, config)
    assert isinstance(model, protocol)
    others = {protocols.Teacher, protocols.Student, protocols.Tokenizer, protocols.FeatureNet,
              protocols.TextEncoder, protocols.ImageTextNet}
    assert not any(isinstance(model, other) for other in others - {protocol})
    assert model.config == config and type(config) is cls.Config
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(model))
    sizes = {protocols.Tokenizer: protocols.TokenizerSizes, protocols.Teacher:
             protocols.TeacherSizes, protocols.Student: protocols.TeacherSizes}
    assert isinstance(config, sizes.get(protocol, object))


def test_every_kind_of_model_is_tested_here():
    cases = {**TEACHERS, **TOKENIZERS, **NETS, **ENCODERS, **SCORERS}
    tested = {cls for cls, _ in cases.values()}
    assert set(MODELS.values()) <= tested | set(STUDENTS.values()) | set(REFINING.values())


def shapes(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


@pytest.mark.parametrize("name", TEACHERS)
def test_shapes_of_a_teacher(name):
    """Of all that it returns; where groups are of one size, also of the cache."""
    model, config, groups = case(name)
    ids, condition, starts = ids_of(config), conditions(config), groups.starts
    assert model.groups == groups
    assert sum(side**2 for side in config.token_maps.sides) == groups.length
    assert shapes(model.null(condition)) == shapes(condition)
    logits = jax.eval_shape(model.logits, ids, condition)
    assert (logits.shape, logits.dtype) == ((BATCH, groups.length, V), jnp.float32)
    for n, size in enumerate(groups.sizes):
        logits, cache = jax.eval_shape(model.prefill, condition, ids[:, : starts[n]])
        assert (logits.shape, logits.dtype) == ((BATCH, size, V), jnp.float32)
        for following in groups.sizes[n + 1 : n + 2]:
            step = functools.partial(model.step, ids[:, starts[n] : starts[n + 1]], n)
            logits, after = jax.eval_shape(step, cache)
            assert (logits.shape, logits.dtype) == ((BATCH, following, V), jnp.float32)
            assert following != size or shapes(after) == shapes(cache)


@pytest.mark.parametrize("name", TEACHERS)
def test_steps_behind_any_prefix_equal_teacher_forcing(name):
    """Guided by strengths that differ from group to group."""
    model, config, groups = case(name)
    teacher = Guided(model, Guidance(scale=2.0, schedule="linear"))
    ids, condition, starts = ids_of(config), conditions(config), groups.starts

    def walk(first):
        log_p, cache = teacher.prefill(condition, ids[:, : starts[first]])
        pieces = [log_p]
        for g in range(first, groups.count - 1):
            log_p, cache = teacher.step(ids[:, starts[g] : starts[g + 1]], g, cache)
            pieces.append(log_p)
        return jnp.concatenate(pieces, axis=1)

    walks = jax.jit(lambda: [walk(first) for first in range(groups.count)])()
    forced = jax.jit(lambda: teacher.log_probs(ids, condition))()
    for first, found in enumerate(walks):
        np.testing.assert_allclose(found, forced[:, starts[first] :], atol=1e-4)


def moved(run, x, changed):
    """[L, L]: row p tells which outputs differ where input p is changed."""
    whole = run(jnp.concatenate([x, changed]))
    return np.abs(np.asarray(whole[1:] - whole[:1])).max(axis=-1) > 1e-5


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_sees_earlier_groups_only(name):
    model, config, groups = case(name)
    ids, length = ids_of(config, 1), groups.length
    condition = jax.tree.map(lambda x: x[:1].repeat(length + 1, 0), conditions(config))
    changed = jnp.where(jnp.eye(length, dtype=bool), (ids + 1) % V, ids)
    found = moved(jax.jit(lambda ids: model.logits(ids, condition)), ids, changed)
    group = groups.of_token
    np.testing.assert_array_equal(found, group[:, None] < group[None])


@pytest.mark.parametrize("head", [0, 1])
@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_sees_earlier_groups_and_itself(name, head):
    model, config, groups = student_case(name)
    length = groups.length
    x = jax.random.normal(jax.random.key(1), (1, length, C))
    condition = jax.tree.map(lambda x: x[:1].repeat(length + 1, 0), conditions(config))
    changed = x + jnp.eye(length)[..., None]
    found = moved(jax.jit(lambda x: model(x, 0, condition)[head]), x, changed)
    earlier = groups.of_token[:, None] < groups.of_token[None]
    np.testing.assert_array_equal(found, earlier | np.eye(length, dtype=bool))


@pytest.mark.parametrize("name", REFINING)
def test_a_refining_student_reads_its_last_codes(name):
    """Those of earlier groups and its own; without any it is the student of one pass."""
    config = TEACHERS[name][1]
    model, groups = lively(REFINING[name], config), config.groups
    assert isinstance(model, protocols.RefiningStudent)
    length = groups.length
    x, last = jax.random.normal(jax.random.key(1), (2, 1, length, C))
    condition = jax.tree.map(lambda x: x[:1].repeat(length + 1, 0), conditions(config))
    changed = last + jnp.eye(length)[..., None]
    noise = x.repeat(length + 1, 0)
    found = moved(jax.jit(lambda last: model.refined(noise, last, condition)[0]), last, changed)
    earlier = groups.of_token[:, None] < groups.of_token[None]
    np.testing.assert_array_equal(found, earlier | np.eye(length, dtype=bool))
    none, single = jax.jit(
        lambda: (model.refined(noise, 0 * noise, condition), model(noise, 0, condition))
    )()
    for a, b in zip(none, single, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", TEACHERS)
def test_every_output_depends_on_the_condition(name):
    model, config, _ = case(name)
    ids, condition = ids_of(config, 1).repeat(BATCH, 0), conditions(config)
    logits = jax.jit(lambda condition: model.logits(ids, condition))
    outputs = [*logits(condition), logits(model.null(condition))[0]]
    for a, b in ((0, 1), (0, 2)):
        assert (np.abs(outputs[a] - outputs[b]).max(axis=-1) > 1e-4).all()


@pytest.mark.parametrize("k", [2, jnp.array([0, 2])], ids=["a number", "one for each image"])
@pytest.mark.parametrize("name", STUDENTS)
def test_shapes_of_a_student(name, k):
    model, config, groups = student_case(name)
    assert model.groups == groups
    x = jnp.zeros((BATCH, groups.length, C))
    found = jax.eval_shape(lambda: model(x, k, conditions(config)))
    wanted = [(BATCH, groups.length, width) for width in (V, C)]
    assert [(a.shape, a.dtype) for a in found] == [(shape, jnp.float32) for shape in wanted]


def share_nothing(a, b):
    """Training one of them donates its buffers."""
    return not {id(x) for x in jax.tree.leaves(a)} & {id(x) for x in jax.tree.leaves(b)}


@pytest.mark.parametrize("name", TEACHERS)
def test_what_starts_from_another_model_takes_copies(name):
    cls, config = TEACHERS[name]
    coder = lively(*TOKENIZERS["multiscale" if name == "var" else "vq"])
    teacher = cls.from_tokenizer(config, coder, rngs=nnx.Rngs(1))
    assert isinstance(teacher, cls) and teacher.config == config
    assert share_nothing(teacher, coder)
    if name in STUDENTS:
        student = STUDENTS[name].from_teacher(teacher, rngs=nnx.Rngs(2))
        assert isinstance(student, STUDENTS[name]) and student.config == config
        assert share_nothing(student, teacher)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_there_and_back(name):
    model = lively(*TOKENIZERS[name])
    length = sum(side**2 for side in model.config.token_maps.sides)
    images = jax.random.normal(jax.random.key(0), (BATCH, 12, 12, 3))
    features, ids = jax.jit(lambda x: (model.features(x), model.encode(x)))(images)
    assert (model.codebook.shape, model.codebook.dtype) == ((V, C), jnp.float32)
    assert (features.shape, features.dtype) == ((BATCH, length, C), jnp.float32)
    assert (ids.shape, ids.dtype) == ((BATCH, length), jnp.int32)
    distance = np.square(np.asarray(features)[:, :, None] - np.asarray(model.codebook)).sum(-1)
    np.testing.assert_array_equal(ids, distance.argmin(-1))
    if name != "multiscale":
        np.testing.assert_allclose(np.linalg.norm(model.codebook, axis=1), 1, atol=1e-6)
    back = jax.eval_shape(model.decode, model.codebook[ids])
    assert (back.shape, back.dtype) == (images.shape, jnp.float32)


def test_large_images_are_decoded_one_after_another_on_a_cpu(monkeypatch):
    """And are the same."""
    model = lively(*TOKENIZERS["vq"])
    codes_BLC = model.codebook[jax.random.randint(jax.random.key(0), (3, 9), 0, V)]
    whole = jax.jit(model.decode)(codes_BLC)
    seen, plain = [], VQTokenizer.decode
    monkeypatch.setattr(sampling, "_LARGE", whole[0, ..., 0].size)
    monkeypatch.setattr(VQTokenizer, "decode", lambda *x: seen.append(len(x[1])) or plain(*x))
    np.testing.assert_allclose(jax.jit(sampling.decode)(model, codes_BLC), whole, atol=1e-5)
    assert set(seen) == {1}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_in_training(name):
    """The same ids and image as in use, a gradient for every part, and other codes at will."""
    model = lively(*TOKENIZERS[name])
    images = jax.random.uniform(jax.random.key(0), (BATCH, 12, 12, 3), minval=-1, maxval=1)

    def loss(model, images):
        found = model.autoencode(images)
        value = jnp.mean((found.image - images) ** 2) + found.codebook + found.commitment
        return value, (found, model.encode(images), model.decode(model.codebook[found.ids_BL]))

    (_, (found, ids, image)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(model, images)
    np.testing.assert_array_equal(found.ids_BL, ids)
    np.testing.assert_allclose(np.clip(found.image, -1, 1), np.clip(image, -1, 1), atol=1e-4)
    for path, leaf in trees.flatten(grads).items():
        # A number added to all keys changes no attention.
        assert path.endswith("attn/k/bias") or np.abs(leaf).max() > 0, path
    other = jax.random.normal(jax.random.key(1), (V, C))
    changed = jax.jit(lambda model: model.with_codes(other))(model)
    wanted = other if name == "multiscale" else codes.unit(other)
    np.testing.assert_allclose(changed.codebook, wanted, atol=1e-6)
    assert jax.tree.structure(changed) == jax.tree.structure(model)


@pytest.mark.parametrize("name", NETS)
def test_a_feature_net_compares_images(name):
    model = lively(*NETS[name])
    a, b = jax.random.uniform(jax.random.key(0), (2, BATCH, 12, 12, 3), minval=-1, maxval=1)
    features, logits, measured = jax.jit(lambda net, x: (net.features(x), net(x), net.measure(x)))(
        model, a
    )
    assert features.shape == (BATCH, features.shape[1]) and features.dtype == jnp.float32
    assert (logits.shape, logits.dtype) == ((BATCH, model.num_classes), jnp.float32)
    assert all(x is None or (x.dtype == jnp.float32 and len(x) == BATCH) for x in measured)
    np.testing.assert_array_equal(measured.pooled_BF, features)
    if model.num_classes:
        np.testing.assert_array_equal(measured.logits_BK, logits)
    between = jax.jit(lambda net, a, b: net.distance(a, b))
    distance = between(model, a, b)
    assert (distance.shape, distance.dtype) == ((BATCH,), jnp.float32)
    assert (np.abs(distance) > 1e-4).all()
    np.testing.assert_array_equal(between(model, a, a), 0)
