"""What the commands import of others, some of it only where it is needed: see `tests.commands`.

No module of the project that defines flags, since a command defines them once.
"""

import gc

import clu.metric_writers
import grain
import matplotlib.pyplot
import orbax.checkpoint
import sklearn.datasets
import torch

import ddjax.cli
import ddjax.stages.registry
import ddjax.stages.running
import tests.one_context

gc.freeze()  # else each command looks through all of it, and copies what it looks at

__all__ = ["clu", "ddjax", "grain", "matplotlib", "orbax", "sklearn", "tests", "torch"]
