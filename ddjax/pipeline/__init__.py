"""Pipeline: draw images from a finished run or from model folders, in Python."""

from ddjax.pipeline.outputs import Output, Trajectory
from ddjax.pipeline.pipeline import Pipeline

__all__ = ["Output", "Pipeline", "Trajectory"]
