"""Reference data: what samples are compared with, as features of a net."""

import dataclasses

import numpy as np

# Precision and recall compare each with each.
MOST_NEIGHBOURS_AMONG = 5000


@dataclasses.dataclass(frozen=True)
class Reference:
    """The data, and other samples of the teacher.

    Attributes:
      teacher_NF: features of the teacher's samples.
      data_NF: features of the data; None without data.
      subset_NF: as many of the data, at random, as precision and recall compare with.
      neighbours: k of precision and recall.
    """

    teacher_NF: np.ndarray
    data_NF: np.ndarray | None
    subset_NF: np.ndarray | None
    neighbours: int

    @classmethod
    def of(
        cls, teacher_NF: np.ndarray, data_NF: np.ndarray | None, neighbours: int, seed: int
    ) -> "Reference":
        """A reference; `seed` chooses the subset.

        Args:
          teacher_NF: features of the teacher's samples.
          data_NF: features of the data, or None.
          neighbours: k of precision and recall.
          seed: of the choice of the subset.
        """
        subset = None
        if data_NF is not None:
            order = np.random.default_rng(seed).permutation(len(data_NF))
            subset = data_NF[order[: min(len(teacher_NF), MOST_NEIGHBOURS_AMONG)]]
        return cls(teacher_NF, data_NF, subset, neighbours)
