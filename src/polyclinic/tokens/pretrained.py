"""Pretrained: somebody's network from a folder in transformers' format, as the encoder of images or of text.

The network is the whole encoder: its hidden states are the tokens. Each gets its place in mm (or its order) by a layer that is
zero at the start, so that the first token that is ever made is the network's own to the last bit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..harmonise import Fingerprint, ImageStandard, TextStandard
from ..schema import Modality, Ragged, Tokens
from . import snapshot
from .encoder import Encoder, EncoderFields, grid_positions, rows, rows_of, spacing_or
from .image import NOMINAL_SIDE_MM
from .layout import Layout
from .snapshot import Architecture, SnapshotError

_CLIP_IMAGE, _SIGLIP_IMAGE = (
    Architecture("CLIPVisionModel", True, idle="post_layernorm."),
    Architecture("SiglipVisionModel"),
)
IMAGE = {
    "vit": Architecture("ViTModel", True, pooler=True),
    "dinov2": Architecture("Dinov2Model", True, idle="mask_token"),
    "dinov2_with_registers": Architecture("Dinov2WithRegistersModel", True, idle="mask_token"),
    "dinov3_vit": Architecture("DINOv3ViTModel", True, idle="mask_token"),
    "clip": _CLIP_IMAGE,
    "clip_vision_model": _CLIP_IMAGE,
    "siglip": _SIGLIP_IMAGE,
    "siglip_vision_model": _SIGLIP_IMAGE,
}
"""What reads images."""

_CLIP_TEXT, _SIGLIP_TEXT = Architecture("CLIPTextModel", causal=True), Architecture("SiglipTextModel", idle="head.")
TEXT = {
    "bert": Architecture("BertModel", pooler=True),
    "roberta": Architecture("RobertaModel", pooler=True),
    "xlm-roberta": Architecture("XLMRobertaModel", pooler=True),
    "distilbert": Architecture("DistilBertModel"),
    "electra": Architecture("ElectraModel"),
    "modernbert": Architecture("ModernBertModel"),
    "clip": _CLIP_TEXT,
    "clip_text_model": _CLIP_TEXT,
    "siglip": _SIGLIP_TEXT,
    "siglip_text_model": _SIGLIP_TEXT,
    "llama": Architecture("LlamaModel", causal=True),
    "mistral": Architecture("MistralModel", causal=True),
    "qwen2": Architecture("Qwen2Model", causal=True),
    "qwen3": Architecture("Qwen3Model", causal=True),
}
"""What reads text."""


class PretrainedFields(EncoderFields):
    """A network from a folder.

    Args:
        folder: of the snapshot: config.json, model.safetensors and what prepares its input. A run keeps a copy.
        frozen: whether its weights stay as they are. It runs without dropout either way: all that is random here is a
            function of the recipe's seed and of the step.
        layer: whose hidden states are the tokens, as transformers counts them: 0 is the embedding, 1 the first layer, -1 the last
            layer; None is the network's last word, after its final norm.
        width: of its hidden states, read from the folder.
        depth: blocks of our own after it.
    """

    known: ClassVar[Mapping[str, Architecture]]
    read: ClassVar[tuple[str, ...]] = ("width",)
    """The fields that the folder tells; a recipe that was written out has them and needs no folder to be understood."""

    folder: str
    frozen: bool = True
    layer: int | None = None
    depth: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _told(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("folder"), str) and any(k not in data for k in cls.read):
            return {**cls.told(Path(data["folder"])), **data}
        return data

    @classmethod
    @abstractmethod
    def told(cls, folder: Path) -> dict[str, int]:
        """The fields `read` as a folder has them."""

    def keep(self, into: Path) -> None:
        """Copy the snapshot, once it is known to be whole."""
        self.network()
        snapshot.copy(Path(self.folder), into)

    def kept(self, at: Path) -> Self:
        """The same, from the copy."""
        return self.model_copy(update={"folder": str(at)})

    def network(self) -> nn.Module:
        """The network with the snapshot's weights.

        Raises:
            SnapshotError: the folder has none, or not the one that the fields describe.
        """
        made = snapshot.network(Path(self.folder), self.known)
        config: Any = made.config
        self._agrees("width", config.hidden_size)
        last = config.num_hidden_layers
        if self.layer is not None and not -last - 1 <= self.layer <= last:
            raise SnapshotError(
                f"layer {self.layer} of a network of {last} layers",
                f"{-last - 1} to {last}, or none",
                "correct `layer`",
            )
        return made

    def _agrees(self, name: str, own: int) -> None:
        if getattr(self, name) != own:
            raise SnapshotError(
                f"`{name}` {getattr(self, name)} for the network in {self.folder}",
                f"{own}, which is its own",
                f"leave `{name}` out",
            )


class SightFields(PretrainedFields):
    """A network that looks at pictures.

    Args:
        patch: the network's own, read from the folder.
    """

    known = IMAGE
    patch: int = Field(default=16, ge=2)

    def network(self) -> nn.Module:
        """The network with the snapshot's weights; raises as its parent does."""
        made = super().network()
        config: Any = made.config
        self._agrees("patch", config.patch_size)
        snapshot.normalisation(Path(self.folder))
        return made


class PretrainedImage(SightFields):
    """ViT, DINOv2 and DINOv3 (with registers or without), or the image half of CLIP or SigLIP.

    Args:
        size: pixels of a side, by default what the folder's preprocessor crops to; of another size than the network was
            trained at, its places are interpolated.
        class_token: whether its class token is a token too, at the image's centre; such tokens are no grid, and cannot be segmented.
            Registers never are: they hold nothing that is anywhere (Darcet et al. 2024).
    """

    kind: Literal["pretrained_image"] = "pretrained_image"
    read = ("width", "size", "patch")
    size: int = Field(default=224, ge=8)
    class_token: bool = False

    @classmethod
    def told(cls, folder: Path) -> dict[str, int]:
        """Width, size and patch."""
        _, config = snapshot.settings(folder, cls.known)
        size = snapshot.cropped(folder) or config.image_size
        return {"width": config.hidden_size, "size": size, "patch": config.patch_size}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.size % self.patch:
            raise ValueError(f"patches of {self.patch} do not fill an image of {self.size}")
        return self

    def standard(self, exclude: tuple[str, ...] = ()) -> ImageStandard:
        """What it wants from the harmoniser."""
        return ImageStandard(size=self.size, channels=3)

    def build(self, fingerprint: Fingerprint) -> PretrainedImageEncoder:
        """The module, with the snapshot's weights."""
        return PretrainedImageEncoder(self)

    def network(self) -> nn.Module:
        """The network with the snapshot's weights; raises as its parent does."""
        made = super().network()
        if self.class_token and not snapshot.settings(Path(self.folder), self.known)[0].class_token:
            raise SnapshotError(
                f"`class_token` of the network in {self.folder}", "a network that has one", "leave it out"
            )
        return made


class PretrainedText(PretrainedFields):
    """BERT and its family, the text half of CLIP or SigLIP, or a decoder (LLaMA, Mistral, Qwen) whose hidden states are read.

    Args:
        words: word pieces a note, of the folder's own tokenizer, its marks of beginning and end among them.
    """

    kind: Literal["pretrained_text"] = "pretrained_text"
    known = TEXT
    read = ("width", "words")
    words: int = Field(default=96, ge=4)

    @classmethod
    def told(cls, folder: Path) -> dict[str, int]:
        """Width, and the words of a note: 96, or what the network takes where that is less."""
        _, config = snapshot.settings(folder, cls.known)
        return {"width": config.hidden_size, "words": min(cls.model_fields["words"].default, _places(config))}

    def standard(self, exclude: tuple[str, ...] = ()) -> TextStandard:
        """What it wants from the harmoniser: the folder's tokenizer."""
        return TextStandard(words=self.words, tokenizer=str(Path(self.folder) / "tokenizer.json"))

    def build(self, fingerprint: Fingerprint) -> PretrainedTextEncoder:
        """The module, with the snapshot's weights."""
        return PretrainedTextEncoder(self)

    def network(self) -> nn.Module:
        """The network with the snapshot's weights; raises as its parent does."""
        made = super().network()
        config: Any = made.config
        if self.words > _places(config):
            raise SnapshotError(
                f"`words` {self.words} for the network in {self.folder}", f"at most {_places(config)}", "ask for fewer"
            )
        return made

    def keep(self, into: Path) -> None:
        """Copy the snapshot, once it is known to be whole and its tokenizer to be its own."""
        from ..harmonise.text import import_tokenizer, largest

        _, config = snapshot.settings(Path(self.folder), self.known)
        number = largest(import_tokenizer(Path(self.folder) / "tokenizer.json"))
        if number >= config.vocab_size:
            raise SnapshotError(
                f"a tokenizer in {self.folder} with a word numbered {number}",
                f"at most {config.vocab_size - 1}: the network knows {config.vocab_size} words",
                "copy tokenizer.json and the weights from the same snapshot",
            )
        super().keep(into)


def _places(config: Any) -> int:
    """How many words a network takes; RoBERTa's places begin after that of its padding."""
    after = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta") else 0
    return config.max_position_embeddings - after


class Backbone(nn.Module):
    """A network that is only ever in evaluation. A frozen one is no part of the state dict: its weights stay where they came from.

    Args:
        spec: the folder, which layer, whether frozen.
    """

    def __init__(self, spec: PretrainedFields) -> None:
        super().__init__()
        self.network, self.layer = spec.network(), spec.layer
        self.config: Any = self.network.config
        self.saved = frozenset(self.state_dict())
        if spec.frozen:
            self.requires_grad_(False)
            self.register_state_dict_post_hook(_leave_out)
            self.register_load_state_dict_pre_hook(_put_in)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation: dropout would draw from the world's generator."""
        return super().train(False)

    def forward(self, **inputs: Any) -> Tensor:
        """(m t d) hidden states of the layer."""
        answer = self.network(**inputs, output_hidden_states=self.layer is not None)
        return answer.last_hidden_state if self.layer is None else answer.hidden_states[self.layer]


def _frozen(module: nn.Module) -> dict[str, Tensor]:
    """The frozen weights of a backbone and the buffers that are saved; what LoRA adds to it learns and is none of them."""
    assert isinstance(module, Backbone)
    weights = {name: p for name, p in module.named_parameters() if not p.requires_grad}
    return weights | {name: b for name, b in module.named_buffers() if name in module.saved}


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in _frozen(module):
        state.pop(prefix + name, None)


def _put_in(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, tensor in _frozen(module).items():
        state.setdefault(prefix + name, tensor)


class PretrainedEncoder(Encoder):
    """A network's hidden states as tokens; nothing is asked of what it was not shown (`answer_size` is 0)."""

    def __init__(self, modality: Modality, spec: PretrainedFields) -> None:
        super().__init__(modality, spec)
        self.backbone = Backbone(spec)
        nn.init.zeros_(self.position.project.weight)
        if not spec.depth:
            self.blocks.norm = nn.Identity()  # else the tokens would not be the network's own


class SightEncoder(PretrainedEncoder):
    """A network that looks at pictures, as its makers prepared them.

    Args:
        modality: whose records are shown.
        spec: of the network.
        sides: pixels (y x) of a picture.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, modality: Modality, spec: SightFields, sides: tuple[int, int]) -> None:
        super().__init__(modality, spec)
        config, folder = self.backbone.config, Path(spec.folder)
        self.skipped = int(snapshot.settings(folder, IMAGE)[0].class_token) + getattr(config, "num_register_tokens", 0)
        # DINOv2 interpolates unasked, and DINOv3's places are rotary.
        asks = config.model_type in ("vit", "clip_vision_model", "siglip_vision_model")
        other = sides != (config.image_size, config.image_size)
        self.options = {"interpolate_pos_encoding": True} if asks and other else {}
        self.scale, mean, std = snapshot.normalisation(folder)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def pixels(self, pictures: Tensor) -> Tensor:
        """(k c y x) from 0 to 1 → (k 3 y x) by the makers' scale, mean and spread; a grey picture is grey in all channels."""
        return (self.scale * pictures.expand(-1, 3, -1, -1) - self.mean) / self.std

    def look(self, pictures: Tensor) -> Tensor:
        """(k c y x) from 0 to 1 → (k t d), the class token and registers first."""
        return self.backbone(pixel_values=self.pixels(pictures), **self.options)


def shown(values: Tensor) -> Tensor:
    """(m c …) of our standards → each from 0 to 1.

    The standard clips an image's brightness at percentiles, takes off its mean and divides by its spread. The darkest is therefore
    what was 0 and the brightest what was 1: the picture as a screen would show it, which is what such networks were trained on.
    """
    axes = tuple(range(1, values.ndim))
    low, high = (extreme(values, axes, keepdim=True) for extreme in (torch.amin, torch.amax))
    return (values - low) / (high - low).clamp(min=1e-6)


class PretrainedImageEncoder(SightEncoder):
    """(m 1 y x) → m · (size / patch)² tokens, and a class token an image where it is wanted."""

    def __init__(self, spec: PretrainedImage) -> None:
        super().__init__(Modality.IMAGE, spec, (spec.size, spec.size))
        self.grid_patch, self.class_token = (spec.patch, spec.patch), spec.class_token
        self.patch = () if spec.class_token else self.grid_patch

    def embed(self, ragged: Ragged) -> Tokens:
        """One token a patch, after the whole network."""
        assert isinstance(ragged.values, Tensor)
        y, x = (n // self.grid_patch[0] for n in ragged.values.shape[2:])
        hidden = self.look(shown(ragged.values))
        nominal = NOMINAL_SIDE_MM / max(ragged.values.shape[2:])
        position = grid_positions((y, x), self.grid_patch, spacing_or(ragged, (nominal, nominal)))
        values = hidden[:, self.skipped :]
        if self.class_token:
            values = torch.cat([hidden[:, :1], values], 1)
            position = torch.cat([position.new_zeros(len(position), 1, 4), position], 1)
        record = rows(len(values), values.shape[1], values.device)
        return self.tokens(ragged, values.flatten(0, 1), record, position.flatten(0, 1))


class PretrainedTextEncoder(PretrainedEncoder):
    """m notes of (w,) word numbers → a token a word."""

    def __init__(self, spec: PretrainedText) -> None:
        super().__init__(Modality.TEXT, spec)
        self.causal = snapshot.settings(Path(spec.folder), TEXT)[0].causal
        self.backbone.config.use_cache = False
        self.padding = self.backbone.config.pad_token_id or 0

    def embed(self, ragged: Ragged) -> Tokens:
        """One token a word, after the whole network; notes of similar length go through it side by side."""
        record, words = rows_of(ragged.values), torch.cat(list(ragged.values))
        answers, seats = [], []
        for bucket in Layout.of(record).buckets:
            if bucket.inside is None:
                answers.append(self.backbone(input_ids=words[bucket.token]).flatten(0, 1))
                seats.append(bucket.token.flatten())
            else:
                padded = torch.where(bucket.inside, words[bucket.token], self.padding)
                hidden = self.backbone(input_ids=padded, attention_mask=bucket.inside.long())
                answers.append(hidden[bucket.inside])
                seats.append(bucket.token[bucket.inside])
        values = torch.cat(answers)
        values = torch.zeros_like(values).index_copy(0, torch.cat(seats), values)
        position = torch.zeros(len(record), 4, device=record.device)
        position[:, 3] = torch.cat([torch.arange(len(v), device=record.device) for v in ragged.values]).float()
        return self.tokens(ragged, values, record, position)
