"""CLIP (Radford et al. 2021): a tower for images and one for texts, compared in one space.

Where it differs from the paper: nowhere. The recipe `clip` trains the same on any two modalities, with patches in mm and texts read
both ways; this is the published network, for its published weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...objectives import numbers
from ...tokens import Layout, Style, Transformer
from .interchange import Same, expect
from .vit import Patches, layout_of

LEGACY_END = 2
"""The end that old configurations name whatever it is: there the text's vector is at its largest word number, as in the original."""
ACTIVATIONS = {"quick_gelu": "gelu_sigmoid", "gelu": "gelu"}


def tower(config: Mapping[str, Any], causal: bool) -> Transformer:
    """The blocks of one side."""
    expect(config, hidden_act=tuple(ACTIVATIONS))
    activation = "gelu_sigmoid" if ACTIVATIONS[config["hidden_act"]] == "gelu_sigmoid" else "gelu"
    style = Style(activation=activation, eps=config["layer_norm_eps"], causal=causal)
    width = config["hidden_size"]
    ratio = config["intermediate_size"] / width
    return Transformer(width, config["num_hidden_layers"], config["num_attention_heads"], ratio, style)


class Clip(nn.Module):
    """CLIP of a `transformers` configuration (`CLIPModel`)."""

    kind = "clip"

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config, vision, text = config, config["vision_config"], config["text_config"]
        wide, narrow, e = vision["hidden_size"], text["hidden_size"], config["projection_dim"]
        self.end = text["eos_token_id"]
        self.patches = Patches(vision["image_size"], vision["patch_size"], vision["num_channels"], wide, False)
        self.enter = nn.LayerNorm(wide, vision["layer_norm_eps"])
        self.image, self.text = tower(vision, causal=False), tower(text, causal=True)
        self.words = nn.Embedding(text["vocab_size"], narrow)
        self.places = nn.Embedding(text["max_position_embeddings"], narrow)
        self.project_image, self.project_text = nn.Linear(wide, e, False), nn.Linear(narrow, e, False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def images(self, images: Tensor) -> Tensor:
        """(m c y x) → (m e) of unit length."""
        x = self.enter(self.patches(images))
        # The last norm of a tower is on each token alone, so that the class token's is the original's.
        hidden = self.image(x, layout_of(len(images), len(x) // max(len(images), 1), x.device))
        return F.normalize(self.project_image(hidden.unflatten(0, (len(images), -1))[:, 0]), dim=1)

    def texts(self, texts: Sequence[Tensor]) -> Tensor:
        """(w,) int64 each, with their end → (s e) of unit length."""
        words, layout = torch.cat(list(texts)), Layout.of(numbers(texts))
        hidden = self.text(self.words(words) + self.places(layout.order()), layout)
        lengths = torch.tensor([len(t) for t in texts], device=words.device)
        ends = [int(t.argmax()) if self.end == LEGACY_END else int((t == self.end).long().argmax()) for t in texts]
        at = lengths.cumsum(0) - lengths + torch.tensor(ends, device=words.device)
        return F.normalize(self.project_text(hidden[at]), dim=1)

    def forward(self, images: Tensor, texts: Sequence[Tensor]) -> Tensor:
        """(m s) logits: how well each image and each text go together."""
        return self.log_scale.exp() * self.images(images) @ self.texts(texts).T

    def same(self) -> Iterator[Same]:
        """What its weights are in `transformers`."""
        p, c, wide = self.patches.patch, self.patches.channels, self.enter.weight.shape[0]
        yield Same("log_scale", ("logit_scale",))
        yield Same("patches.first", ("vision_model.embeddings.class_embedding",))
        yield Same("patches.project.weight", ("vision_model.embeddings.patch_embedding.weight",), shape=(wide, c, p, p))
        yield Same("patches.places", ("vision_model.embeddings.position_embedding.weight",))
        yield Same("words.weight", ("text_model.embeddings.token_embedding.weight",))
        yield Same("places.weight", ("text_model.embeddings.position_embedding.weight",))
        yield Same("project_image.weight", ("visual_projection.weight",))
        yield Same("project_text.weight", ("text_projection.weight",))
        pairs = {
            "enter": "vision_model.pre_layrnorm",
            "image.norm": "vision_model.post_layernorm",
            "text.norm": "text_model.final_layer_norm",
        }
        for side, model in (("image", self.image), ("text", self.text)):
            of = "vision_model" if side == "image" else "text_model"
            for n, block in enumerate(model.layers):
                one, other = f"{side}.blocks.{n}.", f"{of}.encoder.layers.{n}."
                width = block.attention.out.out_features
                for part in ("weight", "bias"):
                    qkv = tuple(f"{other}self_attn.{name}_proj.{part}" for name in "qkv")
                    yield Same(f"{one}attention.qkv.{part}", qkv, (width,) * 3)
                for ours, theirs in (
                    ("attention.out", "self_attn.out_proj"), ("norm1", "layer_norm1"), ("up", "mlp.fc1"), ("down", "mlp.fc2"),
                    ("norm2", "layer_norm2"),
                ):  # fmt: skip
                    pairs[one + ours] = other + theirs
        for ours, theirs in pairs.items():
            for part in ("weight", "bias"):
                yield Same(f"{ours}.{part}", (f"{theirs}.{part}",))
