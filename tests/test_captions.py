"""Captions as texts: files by number, tokens, and features that are the encoder's."""

import io
import json
import random
import tracemalloc

import jax
import numpy as np
import pytest
import sentencepiece
from flax import nnx

from configs import llamagen_t2i, shapes
from ddjax.config import from_dict
from ddjax.config.schema import DataSection, SampleSection
from ddjax.data import caption_files, captions, conditions, pieces
from ddjax.data.pieces import Pieces
from ddjax.models.condition_embed import left_padded
from ddjax.models.t5 import T5Config, T5Encoder
from ddjax.pipeline import Pipeline
from ddjax.runtime.errors import UserError
from ddjax.stages import registry, running
from ddjax.storage import run_models
from ddjax.storage.pair_store import Store
from tests import tiny

TEXTS = ["a red fox", "", "grün — ثعلب 🦊", "a red fox", "two | boats", "x" * 3000]


def lines(path, texts=TEXTS, end="\n"):
    path.write_bytes(end.join(texts).encode() + end.encode())
    return path


def load(name, field="", shuffle=-1, distinct=False, **keys):
    return captions.load(DataSection(
        "none", 8, 0, captions=str(name), captions_field=field, captions_seed=shuffle,
        captions_distinct=distinct, **keys,
    ))


def listed(found):
    return [found[i] for i in range(len(found))]


def test_files_of_every_kind_hold_the_same_captions(tmp_path):
    objects = [json.dumps({"caption": text, "id": i}) for i, text in enumerate(TEXTS)]
    for found in (
        load(lines(tmp_path / "a.txt")),
        load(lines(tmp_path / "b.txt", end="\r\n")),
        load(lines(tmp_path / "c.jsonl", objects)),
        load(lines(tmp_path / "c.json", [f'{{"annotations": [{", ".join(objects)}]}}'])),
    ):
        assert listed(found) == TEXTS
    marked = tmp_path / "e.txt"
    marked.write_bytes("one\ntwo\n".encode("utf-8-sig"))
    assert load(marked)[0] == "one"
    half = load(lines(tmp_path / "f.jsonl", [r'{"caption": "\ud83d"}']))
    assert half[0] == "?"
    last = tmp_path / "d.txt"
    last.write_text("one\ntwo")  # no line end
    assert load(last)[1] == "two" and len(load(last)) == 2


def test_a_table_has_a_column_of_captions(tmp_path):
    rows = ["Prompt\tCategory", "a red fox\tAnimals", '"a ""STOP"" sign"\tSigns', '"\tx', "\t",
            "no more"]
    found = load(lines(tmp_path / "PartiPrompts.tsv", rows), "Prompt")
    assert listed(found) == ["a red fox", 'a "STOP" sign', '"', "", "no more"]
    for content, field, message in (
        (rows, "", "has the columns Prompt, Category, not caption; name the one"),
        ([*rows, "x\ty\tz"], "Prompt", "line 7 has 3 columns, must have 2"),
        ([rows[0], "x"], "Category", "line 2 has 1 columns, must have 2"),
        (rows[:1], "Prompt", "has no captions"),
    ):
        with pytest.raises(UserError, match=rf"a\.tsv.*{message}"):
            load(lines(tmp_path / "a.tsv", content), field)


def test_lines_are_found_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(caption_files, "_CHUNK", 7)
    path = lines(tmp_path / "a.txt", ["a" * i + "ü" for i in range(20)])
    assert listed(load(path)) == ["a" * i + "ü" for i in range(20)]
    path.write_bytes(path.read_bytes() + b"\nfox\xff\n")
    with pytest.raises(UserError, match=r"a\.txt, line 22 is not UTF-8"):
        load(path)


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory):
    """A set as COCO's captions are one: several captions beside an image."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class Foxes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            texts = tfds.features.Sequence({"text": tfds.features.Text()})
            features = tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(2, 2, 3)), "captions": texts,
                "caption": tfds.features.Text(), "number": np.int64,
            })
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples(5), "val": self._generate_examples(2)}

        def _generate_examples(self, count):
            for i in range(count):
                texts = [{"text": f"fox {i} {j}"} for j in range(2)]
                image = io.BytesIO(b"no picture, and never decoded")
                yield i, {"image": image, "captions": texts, "caption": f"grün {i}", "number": i}

    folder = tmp_path_factory.mktemp("tfds")
    Foxes(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return str(folder)


def test_a_set_of_tfds(tfds_folder):
    found = load("tfds:foxes", directory=tfds_folder)
    assert sorted(listed(found)) == [f"grün {i}" for i in range(5)]
    of_several = load("tfds:foxes", "captions/text", captions_split="val", directory=tfds_folder)
    assert sorted(listed(of_several)) == ["fox 0 0", "fox 1 0"]
    shuffled = load("tfds:foxes", shuffle=1, directory=tfds_folder)
    assert listed(shuffled) != listed(found) and set(listed(shuffled)) == set(listed(found))
    for name, keys, message in (
        ("tfds:foxes", {"field": "text"}, r"captions_field: got text, but .* is caption, captions"),
        ("tfds:foxes", {"field": "number"}, r"captions_field: number is int, must be a text"),
        ("tfds:foxes", {"captions_split": "x"}, r"split: got x, must be one of train, val, of fox"),
        ("tfds:no_foxes", {}, r"captions: tfds:no_foxes could not be had from TFDS"),
    ):
        with pytest.raises(UserError, match=message):
            load(name, directory=tfds_folder, **keys)


def test_captions_of_tfds_are_known_by_their_set(tfds_folder):
    tree = llamagen_t2i.get_config("tiny").to_dict()
    tree["data"] |= {"captions": "tfds:foxes", "directory": tfds_folder}
    other = {**tree, "data": {**tree["data"], "captions_split": "val"}}
    first, second = (
        running.settings(from_dict(one), registry.STAGES["pairs"]) for one in (tree, other)
    )
    assert first["data.captions"].startswith("tfds:foxes/1.0.0 train ([5], ")
    assert first["data.captions"] != second["data.captions"]


def test_a_made_vocabulary_is_known_by_its_pieces(monkeypatch):
    """Another version of sentencepiece may make other pieces of the same captions."""
    config, pairs = from_dict(shapes.get_config().to_dict()), registry.STAGES["pairs"]
    running._made_vocabulary.cache_clear()
    first = running.settings(config, pairs)
    running._made_vocabulary.cache_clear()
    assert running.settings(config, pairs) == first
    made = Pieces.trained
    monkeypatch.setattr(Pieces, "trained", lambda texts, size: made(texts, size - 1))
    running._made_vocabulary.cache_clear()
    second = running.settings(config, pairs)
    running._made_vocabulary.cache_clear()
    assert {key for key in first if first[key] != second[key]} == {"text.pieces"}


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet files need pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": TEXTS, "n": range(len(TEXTS))}), path)
    found = load(path, "text")
    assert [found[i] for i in range(len(found))] == TEXTS
    with pytest.raises(UserError, match=r"a\.parquet: no captions in column 'caption'"):
        load(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a\.parquet: no captions in column 'text'"):
        load(path, "text")


def test_order_and_equal_captions(tmp_path):
    path = lines(tmp_path / "a.txt")
    distinct = load(path, distinct=True)
    assert [distinct[i] for i in range(len(distinct))] == TEXTS[:3] + TEXTS[4:]
    orders = [load(path, shuffle=seed) for seed in (0, 0, 1)]
    found = [[order[i] for i in range(len(order))] for order in orders]
    assert found[0] == found[1] != found[2] and sorted(found[0]) == sorted(TEXTS)
    both = load(path, shuffle=3, distinct=True)
    assert sorted(both[i] for i in range(len(both))) == sorted(set(TEXTS))


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.txt", b"", r"a\.txt is empty"),
    ("a.csv", b"x", r"a\.csv: must end in \.txt, \.jsonl, \.tsv, \.json, \.parquet, or"),
    ("a.txt", b"one\ntwo\n\xff\xfe\n", r"a\.txt, line 3 is not UTF-8"),
    ("a.jsonl", b'{"caption": "x"}\nnope\n', r"a\.jsonl, line 2 is no JSON object with the key"),
    ("a.jsonl", b'{"text": "x"}\n', r"line 1 is no JSON object with the key 'caption'"),
    ("a.json", b'{"annotations": [{"id": 1}]}', r'a\.json has no "annotations" with a .caption.'),
    ("a.json", b'[]', r'a\.json has no "annotations" with a .caption.'),
    ("a.jsonl", b'{"caption": ["x"]}\n', r"line 1: caption is list, must be a string"),
])
def test_files_that_hold_something_else_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"config\.data\.captions: .*{message}"):
        load(tmp_path / name)
    with pytest.raises(UserError, match=r"nowhere\.txt: No such file"):
        load(tmp_path / "nowhere.txt")


def test_many_captions_take_little_memory(tmp_path):
    """Eight bytes each, 40 MB for five million, and as much again for an order."""
    count = 200_000
    path = lines(tmp_path / "a.txt", [f"caption number {i}" for i in range(count)])
    tracemalloc.start()
    found = load(path, shuffle=0)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == count and held < 20 * count and peak < 60 * count


@pytest.fixture(scope="module")
def spiece(tmp_path_factory):
    """A vocabulary as T5's: padding 0, end 1, unknown 2."""
    folder = tmp_path_factory.mktemp("pieces")
    rng = random.Random(0)
    words = ["red", "fox", "boat", "snow", "light", "house", "green", "lake", "old", "table"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(" ".join(rng.choices(words, k=6)) for _ in range(300)),
        model_prefix=str(folder / "spiece"), vocab_size=60, hard_vocab_limit=False, pad_id=0,
        eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )
    return folder / "spiece.model"


def test_tokens_end_with_the_end_and_are_padded(spiece):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(spiece))
    size = processor.vocab_size()
    texts = ["red fox", "", "green " * 50, "🦊 ثعلب", "lake"]
    found = Pieces.read(spiece, size)(texts, 12)
    for row, text in enumerate(texts):
        wanted = [*processor.encode(text)[:11], 1]
        np.testing.assert_array_equal(found.ids_NT[row, : len(wanted)], wanted)
        assert not found.ids_NT[row, len(wanted) :].any()
        assert found.mask_NT[row].sum() == len(wanted)
    assert list(found.cut_N) == [False, False, True, False, False]


def test_a_vocabulary_of_another_encoder_is_refused(spiece, tmp_path):
    size = sentencepiece.SentencePieceProcessor(model_file=str(spiece)).vocab_size()
    for rows in (size - 1, size + pieces.UNUSED + 1):
        with pytest.raises(UserError, match=rf"spiece\.model has {size} pieces, must be .*{rows}"):
            Pieces.read(spiece, rows)
    (tmp_path / "x.model").write_bytes(spiece.read_bytes()[:99])
    with pytest.raises(UserError, match=r"x\.model is no SentencePiece model"):
        Pieces.read(tmp_path / "x.model", size)
    with pytest.raises(UserError, match=r"text\.pieces: .*y\.model is missing"):
        Pieces.read(tmp_path / "y.model", size)


def texts_of(spiece, texts):
    config = T5Config(64, 8, 2, 4, 1, 16, "float32")
    encoder = T5Encoder(config, rngs=nnx.Rngs(0))
    return encoder, conditions.CaptionTexts(
        tuple(texts), str.lower, Pieces.read(spiece, 64), lambda: encoder, 10, 8
    )


def test_features_are_the_encoders_padded_on_the_left(spiece):
    encoder, given = texts_of(spiece, ["Red fox", "green lake", "", "old table"])
    found = given.encode(given.take(np.array([1, 3])))
    tokens = Pieces.read(spiece, 64)(["green lake", "old table"], 10)
    rows = jax.jit(lambda ids, mask: encoder.embed_text(ids, mask))(tokens.ids_NT, tokens.mask_NT)
    wanted = left_padded(rows, tokens.mask_NT)
    np.testing.assert_allclose(found["features"], wanted["features"], atol=1e-5)
    np.testing.assert_array_equal(found["mask"], wanted["mask"])
    assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == jax.tree.map(
        lambda x: (x.shape, x.dtype), given.shapes(2)
    )
    assert given.title(0) == "Red fox" and given.count == 4


def test_what_draws_prompts_refuses_the_rest(spiece):
    _, given = texts_of(spiece, ["red fox"])
    half = given.of_prompts(["\ud83d fox", "\udcff"])
    assert half.title(0) == "? fox" and half.take(np.arange(2))["mask"].any(axis=1).all()
    for prompts, message in (("a fox", "must be a list of texts"), (["a", " "], "number 1 is bl")):
        with pytest.raises(UserError, match=message):
            given.of_prompts(prompts)
    with pytest.raises(UserError, match=r"sample\.prompts: got some beside config\.sample\.capt"):
        given.asked(SampleSection(captions=(0,), prompts="a fox"))


def test_prompts():
    assert conditions.split_prompts(r"a red fox | a \| b|c") == ["a red fox", "a | b", "c"]
    tree = {**tiny.get_config().to_dict(), "sample": {"prompts": "a fox"}}
    with pytest.raises(UserError, match=r"sample\.prompts: got a fox, .* by sample\.labels"):
        from_dict(tree)
    with pytest.raises(UserError, match="no text encoder here; give labels"):
        conditions.Classes(3).of_prompts(["a fox"])


# Their words are in the vocabulary that is made from the captions.
PROMPTS = ["a red fox in the snow", "an old lighthouse at dusk"]
CAPTIONS = [*(f"a fox {i}" for i in range(5)), *PROMPTS]


def job(path):
    """The config of the smallest job from captions to pictures."""
    tree = tiny.get_config().to_dict()
    tree["data"] |= {"name": "none", "num_classes": 0, "captions": str(path)}
    tree["text"] = llamagen_t2i.get_config("tiny").to_dict()["text"]
    tree["teacher"]["model"] |= {"num_classes": 0, "caption_tokens": 16, "caption_dim": 48}
    for section in (tree["tokenizer"], tree["teacher"], tree["evaluate"]["features"]):
        section["weights"] = "random"
    tree["stages"] = "pairs,distill,evaluate,sample"
    tree["pairs"] |= {"count": 16, "per_shard": 16, "batch": 8}
    tree["distill"]["perceptual"], tree["student"]["split"] = 0.0, 16
    tree["distill"]["train"] |= {"steps": 2, "warmup": 1}
    tree["evaluate"] |= {"samples": 6, "batch": 6, "sets": 1,
                         "methods": "student_1step,onestep_all"}
    tree["sample"]["prompts"] = "|".join(PROMPTS)
    return tree


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What it makes, and its config."""
    root = tmp_path_factory.mktemp("t2i")
    tree = job(lines(root / "captions.txt", CAPTIONS))
    for stage in registry.chosen(from_dict(tree)):
        running.run(from_dict(tree), root / "run", stage)
    return tree, root


@pytest.mark.slow
def test_captions_go_through_every_stage(run, capsys):
    tree, root = run
    config = from_dict(tree)
    np.testing.assert_array_equal(Store(root / "run/pairs").all()["condition"], np.arange(16) % 7)
    pipe = Pipeline.from_workdir(root / "run")
    drawn = np.load(next((root / "run").glob("sample/student_1step-*/images.npz")))
    out = pipe(prompts=PROMPTS, method="student_1step", seed=0)
    np.testing.assert_array_equal(out.ids, drawn["ids"])
    assert out.titles == PROMPTS
    other = pipe(prompts=[PROMPTS[1], PROMPTS[1]], method="student_1step", seed=0)
    np.testing.assert_array_equal(other.ids[1], out.ids[1])
    assert (other.ids[0] != out.ids[0]).any()  # the same noise, another caption
    caption = pipe(captions=[3], method="student_1step", seed=0).ids
    np.testing.assert_array_equal(pipe(prompts=["a fox 3"], seed=0).ids, caption)
    with pytest.raises(UserError, match=r"give captions=\[\.\.\.\]"):
        pipe(labels=[1])
    lines(root / "prompts.txt")
    other = {**tree, "data": {**tree["data"], "captions": str(root / "prompts.txt")}}
    running.run(from_dict(other), root / "cut", registry.STAGES["pairs"])
    assert "1 captions were cut to 16 tokens" in capsys.readouterr().out
    lines(root / "captions.txt", [f"a bear {i}" for i in range(7)])
    with pytest.raises(UserError, match=r"made by other settings: .*data\.captions"):
        running.run(config, root / "run", registry.STAGES["distill"])
    lines(root / "captions.txt", CAPTIONS)


@pytest.mark.slow
def test_pairs_are_those_of_the_features_in_a_file(run, tmp_path):
    """Features that are computed while pairs are made, against the same from an .npz file."""
    tree, root = run
    given = run_models.conditions(from_dict(tree))
    tokens = given.take(np.arange(7))
    features = given.encoder().embed_text(tokens["ids"], tokens["mask"])
    np.savez(tmp_path / "c.npz", features=np.asarray(features), mask=tokens["mask"])
    other = {**tree, "text": None, "sample": {"count": 2},
             "data": {**tree["data"], "captions": str(tmp_path / "c.npz")}}
    running.run(from_dict(other), tmp_path / "run", registry.STAGES["pairs"])
    wanted, found = (Store(path / "run" / "pairs").all()["ids"] for path in (root, tmp_path))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("key", "value", "message"), [
    ("text.model.width", 32, r"text\.model\.width: got 32, must be 48, teacher\."),
    ("text.weights", "", r"text\.weights: got none, must be a model folder"),
    ("text.clean", "soap", r"text\.clean: got soap, must be one of llamagen, lower, none"),
    ("text", None, r"data\.captions: got .*txt, must be an \.npz file of features, or text must"),
    ("data.captions_seed", -2, r"data\.captions_seed: got -2, must be >= -1"),
])
def test_configs_that_contradict_themselves_are_refused(key, value, message):
    tree = llamagen_t2i.get_config("tiny").to_dict()
    *path, last = key.split(".")
    part = tree
    for name in path:
        part = part[name]
    part[last] = value
    with pytest.raises(UserError, match=message):
        from_dict(tree)


@pytest.mark.parametrize("size", ["XL", "XL_512"])
def test_published_configs_are_right(size, tmp_path):
    tree = llamagen_t2i.get_config(size).to_dict()
    config = from_dict(tree)
    assert config.guidance.scale == 7.5 and config.guidance.top_k == 1000
    assert config.groups.count == (256 if size == "XL" else 1024)
    with pytest.raises(UserError, match="unknown size; known are XL, XL_512, tiny"):
        llamagen_t2i.get_config("XXS")
