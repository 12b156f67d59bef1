"""Model registry: classes by the kind that configs name; see `ddjax.method.protocols`."""

from ddjax.models import (
    classifier,
    clip,
    inception,
    llamagen,
    lpips,
    multiscale_vq,
    patch_vq,
    t5,
    var,
    vq,
)

# What a model may compute in, where its config says.
DTYPES = ("float32", "bfloat16", "float16")

MODELS = {
    "llamagen": llamagen.LlamaGenTeacher,
    "llamagen_student": llamagen.LlamaGenStudent,
    "llamagen_refining_student": llamagen.LlamaGenRefiningStudent,
    "llamagen_tokenizer": vq.VQTokenizer,
    "var": var.VARTeacher,
    "var_student": var.VARStudent,
    "var_refining_student": var.VARRefiningStudent,
    "var_tokenizer": multiscale_vq.MultiscaleTokenizer,
    "patch_tokenizer": patch_vq.PatchTokenizer,
    "classifier": classifier.Classifier,
    "lpips": lpips.LPIPS,
    "inception": inception.Inception,
    "t5": t5.T5Encoder,
    "clip": clip.CLIP,
}
