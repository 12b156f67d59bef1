r"""LlamaGen's text-to-image teachers: pairs, a student, evaluation and pictures from captions.

    python conversion/torch_to_flax.py --model=t5 --checkpoint=flan-t5-xl/
    python conversion/torch_to_flax.py --model=llamagen --checkpoint=t2i_XL_stage1_256.pt
    python conversion/torch_to_flax.py --model=llamagen_tokenizer --checkpoint=vq_ds16_t2i.pt
    python -m ddjax.main --config=configs/llamagen_t2i.py:XL --config.data.captions=prompts.txt \
        --workdir=runs/t2i
    python -m ddjax.main ... --config.stages=sample --config.sample.prompts="a fox|a lighthouse"

The stages distill and evaluate also need LPIPS and Inception, as in llamagen.py.
With --config.evaluate.clip.weights=conversion/weights/ViT-B-32 and
--config.evaluate.clip.vocabulary=bpe_simple_vocab_16e6.txt.gz the report has the CLIP score.

`XL` draws 256 pixels, `XL_512` 512 (t2i_XL_stage2_512.pt, converted with --grid=32). `tiny` has
random weights and shows on a laptop that all stages run, on the captions of llamagen_t2i.txt.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddjax.config import common, complete
from ddjax.models import llamagen_trunk, t5
from ddjax.runtime.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

SIZES = {"XL": (256, "t2i_XL_stage1_256"), "XL_512": (512, "t2i_XL_stage2_512")}


def get_config(size: str = "XL") -> ConfigDict:
    """The whole job: pairs, distill, evaluate, sample.

    Raises:
      UserError: there is no such size.
    """
    return complete(keys(size))


def keys(size: str) -> dict[str, Any]:
    """The keys of `get_config` that are not at their defaults."""
    if size == "tiny":
        return _tiny()
    if size not in SIZES:
        known = ", ".join((*SIZES, "tiny"))
        raise UserError(f"configs/llamagen_t2i.py:{size}: unknown size; known are {known}")
    return _published(*SIZES[size])


def _published(image_size: int, weights: str) -> dict[str, Any]:
    methods = (
        "teacher_ar,teacher_flow,student_1step,student_2step,teacher_involved_40_80,"
        "refine_1,refine_2,skip_106,onestep_all"
    )
    shared = common.published(methods)
    return {
        **shared,
        "name": weights,
        "evaluate": {**shared["evaluate"], "clip": common.CLIP},
        "data": {"name": "none", "image_size": image_size, "num_classes": 0,
                 "captions": "prompts.txt"},
        "text": {
            "kind": "t5",
            "model": {"dtype": "bfloat16", **t5.SIZES["xl"]},
            "weights": "conversion/weights/flan-t5-xl",
            "pieces": "flan-t5-xl/spiece.model",
        },
        "tokenizer": {
            "kind": "llamagen_tokenizer",
            "model": {"image_size": image_size, "image_channels": 3, "vocab_size": 16384,
                      "code_dim": 8, "channels": 128, "multipliers": (1, 1, 2, 2, 4), "blocks": 2,
                      "z_channels": 256},
            "weights": "conversion/weights/vq_ds16_t2i",
        },
        "teacher": {
            "kind": "llamagen",
            "model": {"vocab_size": 16384, "code_dim": 8, "grid": image_size // 16,
                      "caption_tokens": 120, "caption_dim": 2048,
                      "dtype": "bfloat16", **llamagen_trunk.SIZES["XL"]},
            "weights": f"conversion/weights/{weights}",
        },
        "guidance": {"scale": 7.5, "top_k": 1000},
        # As for classes; on 512 pixels neither these steps nor the split were measured.
        "flow": {"steps": 28, "reach": 40.0},
        "student": {"kind": "llamagen_student", "steps": (0, 80), "split": 130},
    }


def _tiny() -> dict[str, Any]:
    methods = (
        "teacher_ar,teacher_flow,student_1step,student_2step,teacher_involved_4_8,refine_1,skip_4,"
        "onestep_all"
    )
    return {
        **common.tiny(methods),
        "name": "llamagen_t2i_tiny",
        "data": {"name": "none", "image_size": 64, "num_classes": 0,
                 "captions": str(Path(__file__).with_suffix(".txt"))},
        "text": {
            "kind": "t5",
            "model": {"vocab_size": 256, "width": 48, "heads": 4, "head_width": 16, "layers": 2,
                      "hidden": 96},
            "weights": "random",
            "clean": "lower",
        },
        "tokenizer": {
            "kind": "llamagen_tokenizer",
            "model": {"image_size": 64, "image_channels": 3, "vocab_size": 64, "code_dim": 8,
                      "channels": 32, "multipliers": (1, 1, 2, 2, 4), "blocks": 2,
                      "z_channels": 64},
            "weights": "random",
        },
        "teacher": {
            "kind": "llamagen",
            "model": {"vocab_size": 64, "code_dim": 8, "grid": 4, "width": 128, "layers": 3,
                      "heads": 2, "caption_tokens": 16, "caption_dim": 48},
            "weights": "random",
        },
        "guidance": {"scale": 7.5, "top_k": 40},
        "student": {"kind": "llamagen_student", "steps": (0, 5), "split": 6},
    }
