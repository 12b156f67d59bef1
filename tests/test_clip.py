"""CLIP against the PyTorch one of transformers, from its weights in OpenAI's layout."""

import jax
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import nn

from conversion.torch_to_flax import convert, restore
from ddjax.models import clip
from ddjax.runtime.errors import UserError
from ddjax.storage import model_folder
from tests.clip_originals import TOKENS, VOCAB, openai_state, original

# Pixels a side, pixels of a patch; width, heads and layers of both towers; width of the vectors.
CASES = {
    "small": (16, 8, (64, 1, 2), (64, 1, 2), 8),
    "wide texts": (24, 8, (64, 1, 1), (128, 2, 3), 48),
    "deep images": (20, 4, (128, 2, 4), (64, 1, 1), 96),
}


def images(count=4, height=40, width=32, seed=0):
    """Of a height whose middle transformers and torchvision round to the same."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(x).resize((width, height))) for x in coarse])


def texts(seed=0):
    """Ids [B, T] of 1 to T tokens and their ends; padded as OpenAI's code does, with zeros."""
    rng, lengths = np.random.default_rng(seed), np.array([1, 4, 7, TOKENS])
    ids = rng.integers(1, VOCAB - 1, (len(lengths), TOKENS))
    places = np.arange(TOKENS)[None]
    ids = np.where(places == lengths[:, None] - 1, VOCAB - 1, ids)
    return np.where(places < lengths[:, None], ids, 0).astype(np.int32)


def wanted_vectors(model, pictures, ids):
    """By transformers, with Pillow for the preprocessing."""
    side = model.config.vision_config.image_size
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    pixels = processor([Image.fromarray(x) for x in pictures], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        out = model(input_ids=torch.from_numpy(ids).long(), pixel_values=pixels)
    return out.image_embeds.numpy(), out.text_embeds.numpy()


def vectors(net, pictures, ids):
    scaled = pictures.astype(np.float32) / 127.5 - 1
    both = jax.jit(lambda: (net.embed_images(scaled), net.embed_texts(ids)))()
    return tuple(map(np.asarray, both))


def converted(state, folder):
    torch.save(state, folder / "ViT.pt")
    convert("clip", [folder / "ViT.pt"], folder / "out", None, {})
    return folder / "out"


@pytest.fixture(scope="module")
def small():
    return original(*CASES["small"])


@pytest.mark.parametrize("name", CASES)
def test_vectors_are_those_of_the_original(name, tmp_path):
    model, pictures, ids = original(*CASES[name]), images(), texts()
    found = vectors(model_folder.load(converted(openai_state(model), tmp_path)), pictures, ids)
    for ours, theirs in zip(found, wanted_vectors(model, pictures, ids), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
        np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
        assert np.abs(theirs[1:] - theirs[:1]).max() > 0.1  # else any vector would do


def test_what_stands_behind_the_end_changes_nothing(small, tmp_path):
    net, ids = model_folder.load(converted(openai_state(small), tmp_path)), texts()
    behind = np.arange(TOKENS)[None] > ids.argmax(axis=1)[:, None]
    other = np.where(behind, np.where(ids % 2, 5, VOCAB - 1), ids)
    embed = jax.jit(lambda ids: net.embed_texts(ids))
    np.testing.assert_allclose(embed(other), embed(ids), atol=1e-6)


def test_bfloat16_is_near(small, tmp_path):
    folder, pictures, ids = converted(openai_state(small), tmp_path), images(), texts()
    found = vectors(model_folder.load(folder, dtype="bfloat16"), pictures, ids)
    for near, exact in zip(found, vectors(model_folder.load(folder), pictures, ids), strict=True):
        assert near.dtype == np.float32
        assert np.sum(near * exact, axis=1).min() > 0.99 and np.abs(near - exact).max() > 0


def test_there_and_back_in_the_names_of_the_original(small, tmp_path):
    """What the original's strict loading asks for, no more and no less."""
    state = openai_state(small)
    restore(converted(state, tmp_path), tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(back[name], tensor), name


class Part(nn.Module):
    """A module that holds given tensors under dotted names."""

    def __init__(self, state):
        super().__init__()
        inner = {}
        for name, tensor in state.items():
            head, dot, tail = name.partition(".")
            if dot:
                inner.setdefault(head, {})[tail] = tensor
            elif tensor.is_floating_point():
                self.register_parameter(head, nn.Parameter(tensor))
            else:
                self.register_buffer(head, tensor)
        for head, part in inner.items():
            self.add_module(head, Part(part))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def archive(state, file):
    """As published: TorchScript, half precision, and sizes among the weights."""
    state = {name: tensor.half() for name, tensor in state.items()}
    sizes = {"input_resolution": 16, "context_length": TOKENS, "vocab_size": VOCAB}
    torch.jit.script(Part({**state, **{k: torch.tensor(v) for k, v in sizes.items()}})).save(file)
    return file


def test_a_published_archive(small, tmp_path):
    """The same arrays as from the state dict, in half precision."""
    state = openai_state(small)
    file = archive(state, tmp_path / "ViT-X.pt")
    convert("clip", [file], tmp_path / "a", None, {})
    converted({name: tensor.half() for name, tensor in state.items()}, tmp_path)
    found, wanted = (model_folder.read(tmp_path / name) for name in ("a", "out"))
    assert found[1] == wanted[1] == clip.CLIPConfig(8, 16, 8, 64, 1, 2, VOCAB, TOKENS, 64, 1, 2)
    assert found[2].keys() == wanted[2].keys()
    for name, array in wanted[2].items():
        np.testing.assert_array_equal(found[2][name], array)


@pytest.mark.parametrize(("change", "message"), [
    ({"visual.proj": None, "visual.attnpool.c_proj.weight": torch.ones(1)}, "is a ResNet; give on"),
    ({"vision_model.embeddings.class_embedding": torch.ones(1)}, "has the names of transformers;"),
    ({"visual.positional_embedding": torch.ones(6, 64)}, "is for 5 patches, must be a square"),
    ({"positional_embedding": torch.ones(TOKENS, 65)}, "text tower's width 65 is no multiple of 6"),
    ({"ln_final.weight": None}, "nothing fills text/norm/scale"),
    ({"visual.layer1.0.conv1.weight": torch.ones(1)}, r"visual\.layer1\.0\.conv1\.weight is not k"),
    ({"text_projection": torch.ones(64, 9)}, r"visual\.proj is \[64, 8\], not \[64, 9\]"),
])
def test_what_is_no_vision_transformer_of_clip_is_refused(change, message, small, tmp_path):
    state = {**openai_state(small), **change}
    with pytest.raises(UserError, match=message):
        converted({k: v for k, v in state.items() if v is not None}, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("sizes", "message"), [
    ({"resolution": 225}, "resolution 225 is not a multiple of patch 32"),
    ({"image_heads": 5}, "image_width 768 is not a multiple of image_heads 5"),
    ({"text_heads": 3}, "text_width 512 is not a multiple of text_heads 3"),
])
def test_sizes_that_no_model_has_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        clip.CLIPConfig(**sizes)


@pytest.mark.parametrize("name", clip.SIZES)
def test_published_sizes(name):
    """Parameters of the published checkpoints."""
    millions = {"ViT-B-32": 151.277313, "ViT-B-16": 149.620737, "ViT-L-14": 427.616513,
                "ViT-L-14-336px": 427.944193}
    model = model_folder.template("clip", clip.CLIPConfig(**clip.SIZES[name]))
    found = sum(leaf.size for leaf in jax.tree.leaves(model))
    assert found == round(millions[name] * 1e6)
