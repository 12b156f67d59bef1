"""Class accuracy: share of images that the net sees as the class that was asked for."""

import numpy as np

from ddjax.evaluation.metrics.metric import Metric
from ddjax.evaluation.statistics import Observed


class ClassAccuracy(Metric):
    """Needs a net that classifies and images of classes."""

    def per_image(self, batch: Observed) -> np.ndarray | None:
        """See `Metric`."""
        if batch.class_B is None or batch.label_B is None:
            return None
        return batch.class_B == batch.label_B


CLASS_ACCURACY = ClassAccuracy("class_accuracy", "class accuracy", "{:.3f}")
