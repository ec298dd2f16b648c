"""Products with weights that stand still: laid out once as the CPU's matrix units want them, while nothing learns.

A decoder writes a word at a time, and each word reads all its weights for a product of few rows. In the order in which they are
learned that takes two to three times as long as in the order of oneDNN's kernels (12.6 million weights, 16 rows: fp32 16.8 ms against
6.4, bf16 5.6 against 3.4, without the casts of autocast besides).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 64
"""Of the products that weights are laid out for: the layout of 64 rows is also the fastest from 1 to 256."""
LARGEST_BYTES = 2**31
"""Of the weights in all: their second copy lasts as long as the writing, and must not crowd out the first."""


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within it the modules' linear layers read a copy of their weights in the kernels' own order; what they answer is the same.

    Weights that are changed within it are not seen. It does nothing on other devices, for numbers but fp32 and bf16, for bf16 on a CPU
    that oneDNN has no kernels of it for, where gradients are wanted, and for modules of more than `LARGEST_BYTES`.

    Args:
        modules: whose `nn.Linear` are called within.
    """
    dtype = _precision()
    layers = {
        layer: None
        for module in modules
        for layer in module.modules()
        if type(layer) is nn.Linear and "forward" not in vars(layer) and layer.weight.device.type == "cpu"
    }
    size = sum(layer.weight.numel() for layer in layers) * dtype.itemsize
    if torch.is_grad_enabled() or not lays_out(dtype) or size > LARGEST_BYTES:
        layers = {}
    try:
        for layer in layers:
            if layer.weight.dtype in (torch.float32, dtype):
                vars(layer)["forward"] = _product(layer, dtype)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def lays_out(dtype: torch.dtype) -> bool:
    """Whether oneDNN has kernels for weights of this precision on this CPU; for bf16 that takes AVX-512 (bw, vl, dq) or AVX-NE-CONVERT."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype is not torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _precision() -> torch.dtype:
    """Of products: autocast's, where it is on."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def _product(layer: nn.Linear, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Its forward with the weights laid out; as ever, where somebody calls it meanwhile for gradients or in another precision."""
    laid = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(dtype), ROWS)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)

    def forward(x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or _precision() is not dtype:
            return F.linear(x, layer.weight, layer.bias)
        return torch.ops.mkldnn._linear_pointwise(x.to(dtype), laid, bias, "none", [], "")

    return forward
