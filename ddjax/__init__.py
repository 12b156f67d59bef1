"""Distilled Decoding in JAX: one- and two-step image generation from AR teachers."""

import os

# TensorFlow is here for its event files only, and logs much when imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from ddjax.pipeline import Pipeline
from ddjax.storage.model_folder import load

__all__ = ["Pipeline", "load"]
