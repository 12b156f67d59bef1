"""One- and two-step image generation from autoregressive teachers: Distilled Decoding in JAX."""

import os

# TensorFlow is here for its event files only, and greets with pages of advice when imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from ddjax.weights import load

__all__ = ["load"]
