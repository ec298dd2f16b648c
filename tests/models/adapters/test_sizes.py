"""What `docs/adaptation.md` says of an adapter's size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from polyclinic.models.adapters import Bitfit, Bottleneck, Lora, Prefix, Prompt, learned, put
from polyclinic.tokens import Transformer

PAGE = Path(__file__).parents[3] / "docs/adaptation.md"


@pytest.mark.parametrize(("spec", "megabytes"), [
    (Lora(), "4.72"), (Bottleneck(), "2.43"), (Prefix(), "0.74"), (Bitfit(), "0.41"), (Prompt(), "0.06"),
])  # fmt: skip
def test_at_the_size_of_vit_b_an_adapter_is_megabytes(spec: Any, megabytes: str) -> None:
    with torch.device("meta"):
        trunk = Transformer(768, 12, 12)
    put(trunk, [spec], 0)
    found = learned(trunk).values() or [p for p in trunk.parameters() if p.requires_grad]
    assert f"{4e-6 * sum(t.numel() for t in found):.2f}" == megabytes
    assert f"`{spec.kind}` {megabytes}" in PAGE.read_text()
