"""Made-up patients' vectors, and targets of them as `probe.views` gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from polyclinic.schema import Target
from polyclinic.tasks import Classes, ClassesTask, Classification, Findings, FindingsTask

SPEC = Classification(column="finding", positive=("COVID-19",))


def two(n: int, apart: float = 2.0, width: int = 64, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Patients of two normal distributions of unit spread, whose means are so far apart."""
    draws = torch.Generator().manual_seed(seed)
    y = (torch.arange(n) % 3 == 0).float()
    x = torch.randn(n, width, generator=draws)
    x[:, 0] += apart * y
    return x, y


def four(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Patients of three of four classes, normally about means that are two apart, and of the third fewer."""
    draws = torch.Generator().manual_seed(seed)
    y = torch.tensor([0, 0, 1, 1, 2])[torch.randint(5, (n,), generator=draws)]
    x = torch.randn(n, 64, generator=draws)
    x[torch.arange(n), y] += 2.0
    return x, y.float()


def signs(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Patients of whom two findings are told by a direction each, (n 2); the second is unknown of every third."""
    draws = torch.Generator().manual_seed(seed)
    y = (torch.rand(n, 2, generator=draws) < torch.tensor([0.3, 0.6])).float()
    x = torch.randn(n, 64, generator=draws)
    x[:, :2] += 2.0 * y
    y[::3, 1] = torch.nan
    return x, y


def among(prior: str = "even") -> ClassesTask:
    spec = {"column": "site", "classes": (("a",), ("b",), ("c",), ("nowhere",)), "prior": prior}
    return ClassesTask("site", Classes.model_validate(spec), 64)


def both() -> FindingsTask:
    each = {name: {"column": name, "positive": ("Y",)} for name in ("large", "grown")}
    return FindingsTask("signs", Findings.model_validate({"findings": each}), 64)


def views(x: torch.Tensor, y: torch.Tensor) -> list[Any]:
    return [(x, Target(y, torch.ones(len(y), dtype=torch.bool)))]


def normed(x: torch.Tensor) -> np.ndarray:
    return F.layer_norm(x, x.shape[1:]).double().numpy()
