"""ViT (Dosovitskiy et al. 2021): an image's patches and a class token, with learned places, through a pre-norm Transformer.

Where it differs from the paper: no dropout. Its learned places fit one size of image, and another is refused: the recipes' own
encoder (`kind: vit`) places patches in mm, and has no such limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...tokens import Layout, Style, Transformer
from .interchange import Same, expect, prefixed


class Patches(nn.Module):
    """Patches of an image and a class token, placed by number.

    Args:
        side: pixels of the square image.
        patch: pixels of a square patch.
        channels: of the image.
        width: d.
        bias: of the projection.
    """

    def __init__(self, side: int, patch: int, channels: int, width: int, bias: bool) -> None:
        super().__init__()
        self.side, self.patch, self.channels = side, patch, channels
        self.project = nn.Linear(channels * patch**2, width, bias)
        self.first = nn.Parameter(torch.randn(width) * 0.02)
        self.places = nn.Parameter(torch.randn((side // patch) ** 2 + 1, width) * 0.02)

    def forward(self, images: Tensor) -> Tensor:
        """(m c y x) → (m·(1 + n) d).

        Raises:
            ValueError: of another size.
        """
        m, p, n = len(images), self.patch, self.side // self.patch
        if images.shape[1:] != (self.channels, self.side, self.side):
            raise ValueError(
                f"images of {tuple(images.shape[1:])} for places of {self.channels} × {self.side} × {self.side}: resize them"
            )
        # The last pixels, which fill no patch, are left out, as by the convolution.
        cut = images[:, :, : n * p, : n * p].reshape(m, self.channels, n, p, n, p)
        patches = self.project(cut.permute(0, 2, 4, 1, 3, 5).reshape(m, n * n, -1))
        x = torch.cat([self.first.to(patches.dtype).expand(m, 1, -1), patches], 1) + self.places
        return x.flatten(0, 1)


def layout_of(images: int, each: int, device: torch.device) -> Layout:
    """`each` tokens an image."""
    return Layout.of(torch.arange(images, device=device).repeat_interleave(each))


class Vit(nn.Module):
    """ViT of a `transformers` configuration (`ViTForImageClassification`, or `ViTModel` with its pooler)."""

    kind = "vit"

    def __init__(self, config: Mapping[str, Any]) -> None:
        expect(config, hidden_act=("gelu",), pooler_act=("tanh", None))
        super().__init__()
        self.config, width = config, config["hidden_size"]
        self.patches = Patches(config["image_size"], config["patch_size"], config["num_channels"], width, True)
        style = Style(eps=config["layer_norm_eps"], qkv_bias=bool(config.get("qkv_bias", True)))
        self.blocks = Transformer(
            width,
            config["num_hidden_layers"],
            config["num_attention_heads"],
            config["intermediate_size"] / width,
            style,
        )
        self.asked = prefixed(config, "vit.", "ViTModel") != ""
        self.leave = nn.Linear(width, len(config.get("id2label") or "01") if self.asked else width)

    def hidden(self, images: Tensor) -> Tensor:
        """(m c y x) → (m·(1 + n) d), each image's class token first."""
        x = self.patches(images)
        return self.blocks(x, layout_of(len(images), len(x) // max(len(images), 1), x.device))

    def forward(self, images: Tensor) -> Tensor:
        """(m c y x) → (m k) logits of the classes; (m d) of each image where it is a `ViTModel`."""
        first = self.hidden(images).unflatten(0, (len(images), -1))[:, 0]
        return self.leave(first) if self.asked else torch.tanh(self.leave(first))

    def same(self) -> Iterator[Same]:
        """What its weights are in `transformers`."""
        of = "vit." if self.asked else ""
        width, p, c = self.leave.in_features, self.patches.patch, self.patches.channels
        yield Same("patches.first", (f"{of}embeddings.cls_token",), shape=(1, 1, width))
        yield Same("patches.places", (f"{of}embeddings.position_embeddings",), shape=(1, *self.patches.places.shape))
        patches = f"{of}embeddings.patch_embeddings.projection."
        yield Same("patches.project.weight", (f"{patches}weight",), shape=(width, c, p, p))
        yield Same("patches.project.bias", (f"{patches}bias",))
        pairs = {"blocks.norm": f"{of}layernorm", "leave": "classifier" if self.asked else "pooler.dense"}
        for n, block in enumerate(self.blocks.layers):
            one, other = f"blocks.blocks.{n}.", f"{of}encoder.layer.{n}."
            for part in ("weight", "bias") if block.attention.qkv.bias is not None else ("weight",):
                qkv = tuple(f"{other}attention.attention.{name}.{part}" for name in ("query", "key", "value"))
                yield Same(f"{one}attention.qkv.{part}", qkv, (width,) * 3)
            for ours, theirs in (
                ("attention.out", "attention.output.dense"), ("norm1", "layernorm_before"), ("up", "intermediate.dense"),
                ("down", "output.dense"), ("norm2", "layernorm_after"),
            ):  # fmt: skip
                pairs[one + ours] = other + theirs
        for ours, theirs in pairs.items():
            for part in ("weight", "bias"):
                yield Same(f"{ours}.{part}", (f"{theirs}.{part}",))
