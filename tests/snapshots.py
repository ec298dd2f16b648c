"""Small networks with random weights, as transformers saves them: what a downloaded snapshot looks like, since nothing is downloaded."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

SIZE, PATCH, WIDTH, WORDS, VOCABULARY = 32, 8, 16, 24, 300
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]

_BODY: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
_EYE: dict[str, Any] = {"image_size": SIZE, "patch_size": PATCH}
_MARKS: dict[str, Any] = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_TEXT: dict[str, Any] = {**_BODY, **_MARKS, "vocab_size": VOCABULARY, "max_position_embeddings": WORDS}
_DINO = {k: v for k, v in _BODY.items() if k != "intermediate_size"} | {"mlp_ratio": 2}
_BOTH = {"text_config": _TEXT, "vision_config": {**_BODY, **_EYE}, "projection_dim": 8}
_DECODER = {**_TEXT, "num_key_value_heads": 1, "head_dim": 8}

IMAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViT", {**_BODY, **_EYE}),
    "dinov2": ("Dinov2", {**_DINO, **_EYE}),
    "dinov2_with_registers": ("Dinov2WithRegisters", {**_DINO, **_EYE, "num_register_tokens": 3}),
    "dinov3_vit": ("DINOv3ViT", {**_BODY, **_EYE, "num_register_tokens": 2}),
    "clip": ("CLIP", _BOTH),
    "siglip": ("Siglip", {k: v for k, v in _BOTH.items() if k != "projection_dim"}),
}
TEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", _TEXT),
    "roberta": ("Roberta", {**_TEXT, "max_position_embeddings": WORDS + 2}),
    "xlm-roberta": ("XLMRoberta", {**_TEXT, "max_position_embeddings": WORDS + 2}),
    "distilbert": (
        "DistilBert",
        {"dim": WIDTH, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": VOCABULARY, **_MARKS, "max_position_embeddings": WORDS},
    ),
    "electra": ("Electra", {**_TEXT, "embedding_size": 8}),
    "modernbert": ("ModernBert", {**_TEXT, "cls_token_id": 0, "sep_token_id": 2}),
    "clip": ("CLIP", _BOTH),
    "siglip": ("Siglip", {k: v for k, v in _BOTH.items() if k != "projection_dim"}),
    "llama": ("Llama", _DECODER),
    "mistral": ("Mistral", _DECODER),
    "qwen2": ("Qwen2", {k: v for k, v in _DECODER.items() if k != "head_dim"}),
    "qwen3": ("Qwen3", _DECODER),
}  # fmt: skip
NOTES = (
    "No focal consolidation, pleural effusion or pneumothorax.",
    "Bilateral ground-glass opacities in both lower lobes; findings suggest viral pneumonia.",
    "The heart is normal in size. No acute osseous abnormality.",
)
_PLACES = TemporaryDirectory(prefix="snapshots-")


@cache
def folder(name: str) -> Path:
    """A snapshot of an architecture, made once: configuration, weights in safetensors, tokenizer or preprocessor."""
    place = Path(_PLACES.name) / name
    save(name, place)
    return place


def save(name: str, place: Path, seed: int = 0, **changes: Any) -> None:
    """Write a snapshot; `changes` are of its configuration."""
    import transformers
    from transformers.utils import logging

    title, fields = {**IMAGE, **TEXT}[name]
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = getattr(transformers, f"{title}Config")(**{**fields, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        getattr(transformers, f"{title}Model")(config).save_pretrained(place)
    if name in IMAGE:
        size = {"height": SIZE, "width": SIZE}
        about = {
            "do_normalize": True,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "image_mean": MEAN,
            "image_std": STD,
        }
        (place / "preprocessor_config.json").write_text(json.dumps({**about, "size": size}))
    if name in TEXT:
        _tokenizer(name).save_pretrained(place)


def _tokenizer(name: str) -> Any:
    """Word pieces as each family has them: `<s> … </s>`, and of decoders a beginning alone."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    own = Tokenizer(models.BPE(unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    own.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(  # type: ignore[call-arg]
        vocab_size=VOCABULARY, special_tokens=marks, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )  # fmt: skip
    own.train_from_iterator(NOTES, trainer)
    ends = "" if TEXT[name][1].get("num_key_value_heads") else " </s>"
    own.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"<s> $A{ends}", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=own, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>"
    )  # fmt: skip
