"""Speed: network passes and seconds for an image, and the teacher's seconds over them."""

from ddjax.evaluation.metrics.metric import Metric, Samples
from ddjax.evaluation.reference import Reference


class Given(Metric):
    """An attribute of `Samples` by the name of the metric; it does not depend on chance."""

    deviates = False

    def compute(self, samples: Samples, reference: Reference) -> float | None:
        """See `Metric`."""
        del reference
        return getattr(samples, self.name)


class SecondsPerImage(Given):
    """Shown in milliseconds."""

    scale = 1e3


class SpeedUp(Metric):
    """Time of the teacher's AR sampling over that of these samples."""

    deviates = False
    needs = ("seconds_per_image", "teacher_seconds_per_image")

    def compute(self, samples: Samples, reference: Reference) -> float:
        """See `Metric`."""
        del reference
        return samples.teacher_seconds_per_image / samples.seconds_per_image


PASSES = Given("passes", "passes", "{:.0f}")
SECONDS_PER_IMAGE = SecondsPerImage("seconds_per_image", "ms / image", "{:.3g}")
SPEED_UP = SpeedUp("speedup", "speed-up", "{:.1f}x")
