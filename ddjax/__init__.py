"""One- and two-step image generation from autoregressive teachers: Distilled Decoding in JAX."""
