"""The models behind the seam, by the kind that configs and converted weights name them with."""

from ddjax.models import classifier, llamagen, lpips, multiscale_vq, patch_vq, var, vq

# What a model may compute in, where its config says.
DTYPES = ("float32", "bfloat16", "float16")

MODELS = {
    "llamagen": llamagen.Teacher,
    "llamagen_student": llamagen.Student,
    "llamagen_tokenizer": vq.Tokenizer,
    "var": var.Teacher,
    "var_student": var.Student,
    "var_tokenizer": multiscale_vq.Tokenizer,
    "patch_tokenizer": patch_vq.Tokenizer,
    "classifier": classifier.Classifier,
    "lpips": lpips.LPIPS,
}
