"""polyclinic: from a hospital's scattered records to a medical multimodal foundation model that it can trust.

import polyclinic as pc
cohort = pc.ingest("examples/hospital", into="cohort/")
run = pc.pretrain("recipes/demo.yaml", cohort)
finding = pc.adapt(run, task="finding", method="lora", labels=100)
print(pc.evaluate(finding)); pc.serve(finding)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adaptation import adapt
    from .clinic import serve
    from .cohort import Cohort, ingest, watch
    from .inference import Index, ask, export, index, predict, segment, synthesise
    from .phantom import Phantom, simulate
    from .training import Recipe, Run, pretrain
    from .trust import continual, evaluate, label_curve, next_modality

__version__ = "0.1.0"
__all__ = [
    "Cohort", "Index", "Phantom", "Recipe", "Run", "adapt", "ask", "continual", "evaluate", "export", "index", "ingest",
    "label_curve", "next_modality", "predict", "pretrain", "segment", "serve", "simulate", "synthesise", "watch",
]  # fmt: skip

_ROOM = {
    "Cohort": "cohort", "ingest": "cohort", "watch": "cohort", "Phantom": "phantom", "simulate": "phantom",
    "Recipe": "training", "Run": "training", "pretrain": "training", "adapt": "adaptation", "ask": "inference", "index": "inference",
    "Index": "inference", "export": "inference", "predict": "inference", "segment": "inference", "synthesise": "inference",
    "continual": "trust", "evaluate": "trust", "label_curve": "trust", "next_modality": "trust", "serve": "clinic",
}  # fmt: skip


def __getattr__(name: str) -> Any:  # PEP 562: nothing heavy is imported until it is named
    if name in _ROOM:
        return getattr(import_module(f"{__name__}.{_ROOM[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
