"""What a sequence of tasks taught and cost, told by its matrix of results.

R[i, j] is the metric of task j after i tasks were learned, i = 0 … T; row 0 is the pretrained backbone. A task that was learned (i > j)
is asked by its own head as it was taught; one that was not yet, by a head that is fitted to the model as it then is. Further axes
(seeds, resamples) may follow the first two.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Results = np.ndarray
"""(T+1 T …)"""


def average(results: Results) -> np.ndarray:
    """The mean over all tasks after the last (Lopez-Paz & Ranzato 2017, equation 2)."""
    return results[-1].mean(0)


def learned(results: Results) -> np.ndarray:
    """The mean of each task right after it was learned: who learns nothing forgets nothing."""
    count = results.shape[1]
    return np.stack([results[j + 1, j] for j in range(count)]).mean(0)


def backward(results: Results) -> np.ndarray:
    """How far the earlier tasks are above what they were right after they were learned (Lopez-Paz & Ranzato 2017, equation 3)."""
    count = results.shape[1]
    return np.stack([results[-1, j] - results[j + 1, j] for j in range(count - 1)]).mean(0)


def forward(results: Results, fresh: np.ndarray) -> np.ndarray:
    """How far a task that comes next is above a network that learned nothing (Lopez-Paz & Ranzato 2017, equation 4).

    Args:
        results: of the sequence.
        fresh: (T …) each task by a head that is fitted to the same network with fresh weights.
    """
    count = results.shape[1]
    return np.stack([results[j, j] - fresh[j] for j in range(1, count)]).mean(0)


def forward_over_pretrained(results: Results) -> np.ndarray:
    """The same over the pretrained backbone instead of a fresh one: what the tasks before, and they alone, gave."""
    return forward(results, results[0])


def forgetting(results: Results) -> np.ndarray:
    """How far the earlier tasks are below the best that they ever were since they were learned (Chaudhry et al. 2018, equation 3)."""
    count = results.shape[1]
    return np.stack([results[j + 1 : -1, j].max(0) - results[-1, j] for j in range(count - 1)]).mean(0)


MEASURES: dict[str, Callable[[Results, np.ndarray], np.ndarray]] = {
    "average": lambda results, fresh: average(results),
    "learned": lambda results, fresh: learned(results),
    "backward_transfer": lambda results, fresh: backward(results),
    "forgetting": lambda results, fresh: forgetting(results),
    "forward_transfer": forward,
    "forward_over_pretrained": lambda results, fresh: forward_over_pretrained(results),
}
"""What is told of a sequence of at least two tasks, by (results, fresh)."""
LESS_IS_BETTER = ("forgetting",)
