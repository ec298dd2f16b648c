"""Published systems, one file each: what they are made of, where ours differs from the paper, and their published weights.

Those that have a namesake in `transformers` are read from a folder that it wrote, give its outputs, and are written back.
"""

from __future__ import annotations

from pathlib import Path

from ..weights import WeightsError
from .bert import Bert
from .clip import Clip
from .gpt import Gpt
from .interchange import load_into, read_config, read_tensors, theirs_of, write
from .llama import Llama
from .vit import Vit

Known = Bert | Clip | Gpt | Llama | Vit
SYSTEMS: dict[str, type[Known]] = {"bert": Bert, "clip": Clip, "gpt2": Gpt, "llama": Llama, "qwen2": Llama, "vit": Vit}
"""By `model_type` of `transformers`."""
BUFFERS = (".position_ids", ".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
"""What older versions of `transformers` saved beside the weights and can be made anew."""


def load_system(folder: str | Path) -> Known:
    """A published network with its weights, for use: fp32, in evaluation mode.

    Args:
        folder: with `config.json` and safetensors, as `save_pretrained` of `transformers` writes it.
    Raises:
        WeightsError: there is no such folder, or it holds another network, or not all of its weights.
    """
    folder = Path(folder)
    config = read_config(folder)
    kind = SYSTEMS.get(config["model_type"])
    if kind is None:
        raise WeightsError(
            f"a network of type {config['model_type']!r} in {folder.name}", f"one of {', '.join(sorted(SYSTEMS))}",
            "use it through `transformers` as an encoder: kind pretrained_image or pretrained_text",
        )  # fmt: skip
    try:
        system = kind(config)
    except KeyError as error:
        raise WeightsError(
            f"a config.json of {folder.name} without {error}", "all keys of its kind", "save it anew"
        ) from error
    load_into(system, system.same(), read_tensors(folder), BUFFERS)
    return system.eval()


def save_system(system: Known, folder: str | Path) -> None:
    """Write a network as `transformers` reads it.

    Raises:
        WeightsError: the place cannot be written.
    """
    folder = Path(folder)
    try:
        write(folder, system.config, theirs_of(system, system.same()))
    except OSError as error:
        raise WeightsError(
            f"{folder.name} could not be written ({error})", "a place with room", "choose another folder"
        ) from error


__all__ = ["SYSTEMS", "Bert", "Clip", "Gpt", "Known", "Llama", "Vit", "load_system", "save_system"]
