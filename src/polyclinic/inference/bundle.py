"""A MONAI bundle of an exported network: MONAI reads the configuration, polyclinic the files, and the network itself needs neither.

    bundle/ configs/metadata.json  configs/inference.json  configs/fingerprint.json  models/model.pt2  docs/README.md  export.json

`python -m monai.bundle run --config_file configs/inference.json --bundle_root . --files "['scan.nii.gz']"` writes an answer a file:
a mask on the file's own grid (NIfTI), or a line of `answers.json`. A volume that the network reads a box at a time is given to it box by
box, and the answers are blended as polyclinic's own are (`inferer` in the configuration).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import records
from ..harmonise import Fingerprint, ImageStandard, VolumeStandard, harmonise, way_back
from ..harmonise.ragged import spacings
from ..records import RecordError
from ..schema import MissingExtraError, Modality, Payload, Rejected
from ..tasks import ClassesTask, FindingsTask, GradeTask, SegmentationTask, Task
from ..tasks.sliding import OVERLAP, sliding

NETWORK, FINGERPRINT, STANDARD = "models/model.pt2", "configs/fingerprint.json", "configs/standard.json"
OWN = version("polyclinic")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write(
    place: Path, task: Task, modality: Modality, shape: Sequence[int], answer: str, wants: dict[str, Any]
) -> None:
    """The bundle's folder, all but the network and the fingerprint.

    Args:
        place: the new folder.
        task: that the network answers.
        modality: image or volume.
        shape: (1 c …) of what it reads.
        answer: what it says, in words.
        wants: the standard that records are harmonised to.
    """
    for folder in ("configs", "models", "docs"):
        (place / folder).mkdir(parents=True)
    dense = isinstance(task, SegmentationTask)
    classes = ["background", *task.spec.classes] if dense else [task.name]
    classes = task.spec.names() if isinstance(task, ClassesTask | FindingsTask | GradeTask) else classes
    own = {k: v for k, v in wants.items() if k != "spacing"}
    files = {
        "configs/metadata.json": _metadata(task.name, shape, answer, classes, dense, wants.get("box") is not None),
        "configs/inference.json": _inference(dense, wants.get("box")),
        STANDARD: own | {"modality": modality.value, "whole": dense},
    }
    for name, data in files.items():
        (place / name).write_text(json.dumps(data, indent=1) + "\n")
    (place / "docs/README.md").write_text(
        f"# {task.name}\n\nExported by polyclinic {OWN}. Reads one {modality} a file; gives {answer}.\n"
        "Research use only; not a medical device.\n\n"
        "    python -m monai.bundle run --config_file configs/inference.json --bundle_root . --files \"['scan.nii.gz']\"\n"
    )


def _metadata(
    task: str, shape: Sequence[int], answer: str, classes: Sequence[str], dense: bool, boxes: bool
) -> dict[str, Any]:
    """What MONAI's bundle specification asks of `metadata.json`."""
    try:
        from monai import __version__ as of_monai
    except ImportError as error:
        raise MissingExtraError("monai", "export") from error
    side = lambda form, channels, named: {
        "type": "image", "format": form, "num_channels": channels, "spatial_shape": list(shape[2:]), "dtype": "float32", "value_range": [],
        "is_patch_data": boxes, "channel_def": {str(i): name for i, name in enumerate(named)},
    }  # fmt: skip
    out = side("segmentation", len(classes), classes) if dense else side("classes", len(classes), classes)
    return {
        "version": "0.1.0", "changelog": {"0.1.0": "exported"}, "monai_version": of_monai, "pytorch_version": torch.__version__,
        "numpy_version": np.__version__, "required_packages_version": {"polyclinic": OWN}, "task": task, "description": answer,
        "authors": "polyclinic", "copyright": "", "intended_use": "Research only; not a medical device.",
        "network_data_format": {"inputs": {"image": side("magnitude", shape[1], ["image"])}, "outputs": {"pred": out}},
    }  # fmt: skip


def _inference(dense: bool, box: Sequence[int] | None) -> dict[str, Any]:
    """Files → answers; of a segmentation that reads a box at a time, blended."""
    blend = (
        {"_target_": "polyclinic.inference.bundle.blending", "roi_size": list(box), "overlap": OVERLAP}
        if box and dense
        else None
    )
    return {
        "imports": ["$import torch"],
        "bundle_root": ".", "files": [], "output_dir": "$@bundle_root + '/eval'",
        "network": f"$torch.export.load(@bundle_root + '/{NETWORK}').module()",
        "reading": {"_target_": "polyclinic.inference.bundle.Reading", "root": "@bundle_root"},
        "answers": {"_target_": f"polyclinic.inference.bundle.{'masks' if dense else 'numbers'}", "_mode_": "callable"},
        **({"inferer": blend} if blend else {}),
        "run": [f"$@answers(@network, @reading, @files, @output_dir{', @inferer' * bool(blend)})"],
    }  # fmt: skip


class Reading:
    """Files → what the network reads, as the run harmonised its own.

    Args:
        root: the bundle's folder.
    """

    def __init__(self, root: str | Path) -> None:
        told = json.loads((Path(root) / STANDARD).read_text())
        self.modality, self.whole = Modality(told.pop("modality")), told.pop("whole", True)
        self.standard = (ImageStandard if self.modality is Modality.IMAGE else VolumeStandard)(**told)
        self.fingerprint = Fingerprint.open(Path(root) / FINGERPRINT)

    def __call__(self, file: str | Path) -> tuple[Payload, Payload]:
        """What stands in a file, and what the network reads of it.

        Raises:
            RecordError: it cannot be used, or does not hold one record of the modality.
        """
        path = Path(file).resolve()
        if not path.is_file():
            raise RecordError(f"no file {path.name}", "a file", "check the path")
        found = [item for _, item in records.read_patient([path])]
        mine = [r for r in found if not isinstance(r, Rejected) and r.modality is self.modality]
        if len(mine) != 1:
            why = "; ".join(r.found for r in found if isinstance(r, Rejected)) or f"{len(mine)} {self.modality}s"
            raise RecordError(f"{path.name}: {why}", f"one {self.modality}", "give another file")
        source = records.load(mine[0], path.parent)
        read = harmonise(source, mine[0], self.standard, self.fingerprint)
        box = getattr(self.standard, "box", None)
        return source, read if self.whole or box is None else replace(read, array=middle(read.array, box))


def middle(array: np.ndarray, box: Sequence[int]) -> np.ndarray:
    """The box in the middle of (c z y x): what polyclinic reads of a whole volume where nothing is drawn in it."""
    start = [(n - b) // 2 for n, b in zip(array.shape[1:], box, strict=True)]
    return array[(slice(None), *(slice(s, s + b) for s, b in zip(start, box, strict=True)))]


Network = Callable[..., Tensor]


def blending(roi_size: Sequence[int], overlap: float = OVERLAP) -> Any:
    """A MONAI `Inferer` that asks a network box by box and blends as `tasks.sliding` does: to the bit what polyclinic answers.

    MONAI's own `SlidingWindowInferer` (`mode="gaussian"`, `sigma_scale=0.125`) lays as many boxes of the same size, but not in the same
    places: from the start, the last one moved back, where ours are spread evenly; and it lifts the Gaussian's tails to 0.001.
    A network of patches then gives other logits, by more than 0.001, and no setting of it moves its boxes.

    Args:
        roi_size: (z y x) of a box.
        overlap: of a box, at least.
    """
    try:
        from monai.inferers.inferer import Inferer
    except ImportError as error:
        raise MissingExtraError("monai", "export") from error

    class Blending(Inferer):
        def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
            """(1 c z y x) of any size → (1 k z y x)."""
            return sliding(lambda boxes: network(boxes, *args, **kwargs), inputs[0], roi_size, overlap=overlap)[None]

    return Blending()


def _said(network: Network, read: Payload, inferer: Any = None) -> Tensor:
    """The network's answer about a harmonised record; blended where there is an inferer."""
    axes = read.array.ndim - 1
    told = spacings([read], axes)
    with torch.no_grad():
        values = torch.from_numpy(read.array)[None].float()
        spacing = torch.full((1, axes), torch.nan) if told is None else told
        return network(values, spacing) if inferer is None else inferer(values, network, spacing)


def numbers(network: Network, reading: Reading, files: Sequence[str], output_dir: str | Path) -> dict[str, Any]:
    """The number said of each file, or the numbers, also written to `answers.json`."""
    said = {Path(file).name: _said(network, reading(file)[1])[0].tolist() for file in files}
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    (Path(output_dir) / "answers.json").write_text(json.dumps(said, indent=1) + "\n")
    return said


def masks(
    network: Network, reading: Reading, files: Sequence[str], output_dir: str | Path, inferer: Any = None
) -> list[Path]:
    """The mask of each file on its own grid, written as NIfTI; `inferer` of a network that reads a box at a time."""
    import nibabel as nib

    written = []
    for file in files:
        source, read = reading(file)
        mask = way_back(_said(network, read, inferer)[0].argmax(0).numpy(), read.history)
        affine = LPS_TO_RAS @ (source.to_world if source.to_world is not None else np.eye(4))
        place = Path(output_dir) / (Path(file).name.split(".")[0] + "_mask.nii.gz")
        place.parent.mkdir(parents=True, exist_ok=True)
        planes = mask.astype(np.uint8)
        nib.save(nib.Nifti1Image((planes if planes.ndim == 3 else planes[None]).transpose(), affine), place)  # pyright: ignore[reportPrivateImportUsage]
        written.append(place)
    return written
