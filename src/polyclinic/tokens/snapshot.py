"""Snapshots: a folder in transformers' format on this machine, with somebody's pretrained network. Nothing is downloaded.

Only weights in safetensors are read (a pickle runs whatever its author put into it), and only code of the installed library runs:
an architecture is named in a table here, and what a folder brings of its own code is never looked at.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from torch import nn

from ..schema import MissingExtraError, PolyclinicError

BESIDE = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json")
"""What is read besides the weights."""
WEIGHTS, INDEX, HASHES = "model.safetensors", "model.safetensors.index.json", "snapshot.json"
SAVE_ANEW = (
    "open it with transformers where it came from, and `model.save_pretrained(folder)`, which writes safetensors"
)


class SnapshotError(PolyclinicError):
    """A folder that holds no network that can be read here, or another one than was asked for."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A `model_type` of a config.json.

    Args:
        network: the class in transformers whose `last_hidden_state` is read.
        class_token: whether the first token of an image is a class token.
        causal: whether a hidden state knows the words before it and none after.
        pooler: whether its constructor can leave out the pooler, which nobody reads here.
        idle: a part of the names of other weights that no hidden state depends on: heads, tokens for masked training.
    """

    network: str
    class_token: bool = False
    causal: bool = False
    pooler: bool = False
    idle: str = ""


def settings(folder: Path, known: Mapping[str, Architecture]) -> tuple[Architecture, Any]:
    """What a folder's network is, and its configuration as transformers reads it.

    Args:
        folder: the snapshot.
        known: the architectures that would do, by `model_type`.
    Raises:
        SnapshotError: no folder; an adapter without its base; an architecture that is not among them; quantised weights.
        MissingExtraError: transformers is not installed.
    """
    if not folder.is_dir():
        raise SnapshotError(
            f"no folder {folder}",
            "a snapshot in transformers' format: config.json and model.safetensors",
            "copy one to this machine; nothing is downloaded here",
        )
    if (folder / "adapter_config.json").exists():
        raise SnapshotError(
            f"an adapter in {folder} (adapter_config.json)",
            "a whole network",
            "merge it into its base with peft's `merge_and_unload()`, and save that",
        )
    about = _json(folder / "config.json", "save the network with transformers' `save_pretrained(folder)`")
    kind = str(about.get("model_type"))
    if kind not in known:
        raise SnapshotError(
            f"a network of the type {kind!r} in {folder}",
            "one of " + ", ".join(sorted(known)),
            "take such a snapshot, or the encoder of the other modality",
        )
    if "quantization_config" in about:
        raise SnapshotError(
            f"quantised weights in {folder} (quantization_config)",
            "weights in float32, float16 or bfloat16",
            "take the snapshot that it was made from",
        )
    wanted = getattr(_transformers(), known[kind].network)
    try:
        return known[kind], wanted.config_class.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # each of its checks has an error of its own
        raise _closed(f"the config.json in {folder}", error) from error


def files(folder: Path) -> list[Path]:
    """The files of a snapshot that are read; its weights are one file, or the shards of an index.

    Raises:
        SnapshotError: the weights are pickled, or a shard is not there.
    """
    if (folder / WEIGHTS).exists():
        weights = [folder / WEIGHTS]
    elif (folder / INDEX).exists():
        shards = set(_json(folder / INDEX, "copy it again").get("weight_map", {}).values())
        weights = [folder / INDEX, *(folder / Path(shard).name for shard in sorted(shards))]
        if lost := [p.name for p in weights if not p.exists()]:
            raise SnapshotError(f"{folder} without {lost[0]}", f"all that {INDEX} lists", "copy the folder again")
    else:
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".h5"))
        found = f"weights in {pickled[0]}, which is not safetensors," if pickled else "no weights"
        raise SnapshotError(f"{found} in {folder}", WEIGHTS, SAVE_ANEW)
    return [folder / name for name in BESIDE if (folder / name).exists()] + weights


def copy(folder: Path, into: Path) -> None:
    """Copy a snapshot with the hashes of its files.

    Raises:
        SnapshotError: it is no snapshot, or the place has no room.
    """
    try:
        into.mkdir(parents=True, exist_ok=True)
        for file in (wanted := files(folder)):
            shutil.copyfile(file, into / file.name)
        (into / HASHES).write_text(json.dumps({f.name: _hash(into / f.name) for f in wanted}, indent=1))
    except OSError as error:
        raise SnapshotError(
            f"{folder} could not be copied to {into} ({error.strerror})", "a place with room", "free some space"
        ) from error


def network(folder: Path, known: Mapping[str, Architecture]) -> nn.Module:
    """The network of a snapshot with its weights, in float32 and in evaluation.

    Raises:
        SnapshotError: as `settings` and `files`; a weight is absent, has another shape, or the file is broken; a copy that `copy` made
            has changed since.
    """
    from torch import float32

    architecture, config = settings(folder, known)
    _unchanged(folder, files(folder))
    config.vision_use_head = False  # SigLIP's; no other has it
    wanted = getattr(_transformers(), architecture.network)
    try:
        with _quiet():
            made, about = wanted.from_pretrained(
                folder, config=config, local_files_only=True, use_safetensors=True, trust_remote_code=False,
                ignore_mismatched_sizes=True, output_loading_info=True, dtype=float32,
                **({"add_pooling_layer": False} if architecture.pooler else {}),
            )  # fmt: skip
    except (
        Exception
    ) as error:  # of a broken file safetensors', of a configuration that cannot be built whatever the layer says
        raise _closed(f"the network in {folder}", error) from error
    _fits(folder, architecture, made, about)
    for name, weight in made.named_parameters():
        if architecture.idle and architecture.idle in name:
            weight.requires_grad_(False)
    return made.eval()


def _fits(folder: Path, architecture: Architecture, made: nn.Module, about: Mapping[str, Any]) -> None:
    """Refuse weights that are not those of the configuration; what no hidden state depends on may be absent."""
    remedy = "copy config.json and the weights from the same snapshot"
    if others := sorted(about["mismatched_keys"]):
        name, found, expected = others[0]
        raise SnapshotError(
            f"{len(others)} weights in {folder} of another shape; the first is {name}: {tuple(found)}",
            f"{tuple(expected)}, as its config.json says", remedy,
        )  # fmt: skip
    if absent := sorted(n for n in about["missing_keys"] if not architecture.idle or architecture.idle not in n):
        raise SnapshotError(
            f"{len(absent)} weights absent in {folder}; the first is {absent[0]}",
            f"the {len(made.state_dict())} weights of {architecture.network}", remedy,
        )  # fmt: skip


def normalisation(folder: Path) -> tuple[float, list[float], list[float]]:
    """How the network's makers prepared pixels: what brightness 0 to 1 is multiplied by, then the mean and spread of the channels.

    Raises:
        SnapshotError: the folder does not say.
    """
    place = folder / "preprocessor_config.json"
    about = _json(place) if place.exists() else {}
    if not about and (folder / "processor_config.json").exists():
        about = _json(folder / "processor_config.json").get("image_processor", {})
    asked = about.get("do_normalize", True)
    mean, std = (about.get("image_mean"), about.get("image_std")) if asked else ([0.0], [1.0])
    if not _numbers(mean) or not _numbers(std) or min(std) <= 0:
        raise SnapshotError(
            f"no preprocessor_config.json with image_mean and image_std in {folder}",
            "how the network's makers scaled pixels: a wrong scale would make a worse network in silence",
            'copy that file from where the network came from, or write it: {"image_mean": [...], "image_std": [...]}',
        )
    scale = 255 * about.get("rescale_factor", 1 / 255) if about.get("do_rescale", True) else 255.0
    return scale, mean, std


def cropped(folder: Path) -> int | None:
    """The side of the square that the network's makers showed it, where a file says so."""
    place = folder / "preprocessor_config.json"
    about = _json(place) if place.exists() else {}
    for name in ("crop_size", "size"):
        size = about.get(name)
        if isinstance(size, int):
            return size
        if isinstance(size, dict) and size.get("height") and size.get("height") == size.get("width"):
            return size["height"]
    return None


def _json(place: Path, remedy: str = "copy the folder again") -> dict[str, Any]:
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = "is not JSON" if place.exists() else "is not there"
        raise SnapshotError(f"{place}, which {what}", "the file as transformers writes it", remedy) from error
    if not isinstance(found, dict):
        raise SnapshotError(f"{place} with a {type(found).__name__}", "an object with keys", remedy)
    return found


def _closed(what: str, error: Exception) -> SnapshotError:
    said = str(error).strip().splitlines() or [type(error).__name__]
    return SnapshotError(
        f"{what} does not open ({said[0][:120]})", "a whole snapshot, as transformers writes it", "copy it again"
    )


def _numbers(value: object) -> TypeGuard[list[float]]:
    return isinstance(value, list) and len(value) in (1, 3) and all(isinstance(v, int | float) for v in value)


def _hash(place: Path) -> str:
    with place.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _unchanged(folder: Path, there: Sequence[Path]) -> None:
    """Refuse a copy that is no longer what was copied: a frozen network's weights are nowhere else."""
    if not (folder / HASHES).exists():
        return
    known, found = _json(folder / HASHES), {file.name: _hash(file) for file in there}
    if wrong := sorted(name for name in known.keys() | found.keys() if known.get(name) != found.get(name)):
        raise SnapshotError(
            f"{folder / wrong[0]}, which is not as it was when the run was made",
            f"the hash {known.get(wrong[0], 'of no such file')}",
            "copy the run's folder again, all of it",
        )


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers", "pretrained") from error
    return transformers


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar, and no list of the weights that are not used: what matters of it is an error here."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
