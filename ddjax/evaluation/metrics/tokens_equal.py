"""Tokens equal: share of ids that are those of the teacher's map for the same noise."""

import numpy as np

from ddjax.evaluation.metrics.metric import Metric
from ddjax.evaluation.statistics import Observed


class TokensEqual(Metric):
    """Kept by position; the figure is the mean over all of them."""

    def per_image(self, batch: Observed) -> np.ndarray | None:
        """Bool [B, L]."""
        if batch.ids_BL is None or batch.exact_ids_BL is None:
            return None
        return batch.ids_BL == batch.exact_ids_BL


TOKENS_EQUAL = TokensEqual("tokens_equal", "tokens equal", "{:.2f}")
