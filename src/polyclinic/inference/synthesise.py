"""`synthesise`: what a run makes, as PNG and NIfTI that say in their names, in their headers and in the picture that they are nobody's.

    into/ manifest.json  synthetic-00001.png  synthetic-00002.png …     (or .nii.gz)

No DICOM is written: its fields are for people, and a viewer or an archive would file it under one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..adaptation.plan import AdaptError
from ..cohort import Cohort
from ..harmonise.geometry import spacing_of
from ..harmonise.volume import VolumeStandard, in_hu, is_ct
from ..records.synthetic import MARK
from ..schema import MissingExtraError, Modality, Payload
from ..training import Run
from ..training.run import file_hash, write_json
from .ask import lineage
from .synthesis import By, Made, Maker, made, of_files, templates, there

NOTICE = (
    "SYNTHETIC: made by a model. No record of any patient, not for diagnosis, and not to be filed under a patient. It may nevertheless be "
    "like a training patient's: see the memorisation figures of `polyclinic evaluate`."
)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
NOBODY = "nobody"


def synthesise(
    run: Run | str | Path, n: int | None = None, *, cohort: Cohort | str | Path | None = None, patients: Sequence[str] | None = None,
    files: Sequence[str | Path] = (), by: By | None = None, steps: int = 50, guidance: float = 2.0, seed: int = 0,
    into: str | Path | None = None, progress: Callable[[int, int, str], None] | None = None,
) -> Path:  # fmt: skip
    """Write records that a run's last stage makes, each with what says that it is synthetic, and a manifest.

    Args:
        run: pretrained with `latent_diffusion` or `translation` as its last stage, or its folder.
        n: how many; by default 16 that are drawn, or one translation for each patient. More than patients are given: each in turn.
        cohort: where it lies now, of which training records say how large a record is; by default where it lay.
        patients: whose records are shown; of `translation` by default the test side's.
        files: of one patient, shown instead.
        by: which objective, where the last stage had both.
        steps, guidance: of the diffusion, see `LatentDiffusionObjective.sample`.
        seed: the same gives the same records.
        into: an empty folder, or one of a former synthesis, which is replaced; by default `synthetic` in the run's.
        progress: told how many are made.
    Returns:
        the folder.
    Raises:
        AdaptError: the run makes nothing, or no image or volume; patients of whom nothing is there to be shown; a folder with something
            else in it.
    """
    maker = Maker.of(run, by)
    if maker.target not in (Modality.IMAGE, Modality.VOLUME):
        raise AdaptError(
            f"a run that makes {maker.target}",
            "images or volumes",
            "use `objective.translate` from Python, and `polyclinic evaluate`",
        )
    if patients is not None and files:
        raise AdaptError("patients and files to be shown", "one of both", "leave one out")
    catalogue = cohort if isinstance(cohort, Cohort) else maker.run.cohort(cohort)
    loader, names = _shown(maker, catalogue, patients, files)
    count = n if n is not None else (16 if loader is None or maker.spec.kind == "latent_diffusion" else len(names))
    if count < 1:
        raise AdaptError(f"{count} records to make", "at least 1", "ask for more")
    place = emptied(Path(into) if into is not None else maker.run.path / "synthetic")
    models, rows = templates(maker, catalogue, seed), list[dict[str, Any]]()
    who = [names[i % len(names)] for i in range(count)]
    for part in made(maker, loader, who, models, steps=steps, guidance=guidance, seed=seed):
        rows += [_written(maker, part, i, place, len(rows) + 1 + i) for i in range(len(part.values))]
        if progress is not None:
            progress(len(rows), count, "made")
    told = {"steps": steps, "guidance": guidance} if maker.spec.kind == "latent_diffusion" else {}
    write_json(
        place / "manifest.json",
        {
            "synthetic": True, "notice": NOTICE, "made_by": maker.spec.kind, "what": maker.target.value, "seed": seed, **told,
            "lineage": lineage(maker.run), "records": rows,
        },
    )  # fmt: skip
    return place


def _shown(
    maker: Maker, cohort: Cohort, patients: Sequence[str] | None, files: Sequence[str | Path]
) -> tuple[Any, list[str]]:
    """Who is shown: a loader of them, or None for nobody, and their names."""
    if files:
        loader, name = of_files(maker, files)
        return loader, [name]
    if patients is None and maker.spec.kind == "latent_diffusion":
        return None, [NOBODY]
    if maker.spec.source == ():
        raise AdaptError("patients to be shown to a run that draws of nobody", "none", "leave `patients` out")
    wanted = list(patients) if patients is not None else list(maker.run.split.test)
    loader = maker.run.loader(cohort, tuple(wanted), most=None)
    able = there(maker, loader, wanted)
    missing = sorted(set(wanted) - set(able))
    if not able or (patients is not None and missing):
        raise AdaptError(
            f"{len(missing)} patients of whom nothing is there to be shown ({', '.join(missing[:3])})",
            "patients with a record that this run reads", "check the names, or give files",
        )  # fmt: skip
    return loader, loader.readable(able)


def emptied(place: Path) -> Path:
    """The folder, without a former synthesis.

    Raises:
        AdaptError: there is something else in it.
    """
    old = place / "manifest.json"
    if old.exists():
        try:
            told = json.loads(old.read_text())
            names = [place / row["file"] for row in told["records"]] if told.get("synthetic") is True else None
        except (ValueError, KeyError, TypeError, AttributeError):
            names = None
        if names is not None and {p.name for p in place.iterdir()} <= {old.name, *(p.name for p in names)}:
            for path in (*names, old):
                path.unlink(missing_ok=True)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise AdaptError(f"a folder {place} with other files in it", "an empty or a new folder", "name another: --into")
    place.mkdir(parents=True, exist_ok=True)
    return place


def _written(maker: Maker, part: Made, i: int, place: Path, number: int) -> dict[str, Any]:
    """One record's file, and its line of the manifest."""
    values, frame, like = part.values[i].float().numpy(), part.frames[i], part.like[i].record
    if not np.isfinite(values).all():
        raise AdaptError(
            f"nothing to be shown of {part.shown.patients[i]}", "a record that this run reads", "leave the patient out"
        )
    stem = f"synthetic-{number:05}"
    shown = {"patient": None, "side": None, "records": [], "modalities": []}
    if part.shown.payloads:
        seen = {m: [r.ids[k] for k in torch.nonzero(keep & (r.patient == i)).flatten().tolist()] for m, r in part.shown.payloads.items()
                if (keep := maker.spec.sources(part.shown).get(m)) is not None}  # fmt: skip
        name = part.shown.patients[i]
        side = next((s for s in ("train", "test") if name in getattr(maker.run.split, s)), "new")
        ids = [k for own in seen.values() for k in own]
        shown = {
            "patient": name,
            "side": side,
            "records": ids,
            "modalities": [m.value for m, own in seen.items() if own],
        }
    row: dict[str, Any] = {"shown": shown, "kind": f"synthetic {like.kind}"}
    if maker.target is Modality.IMAGE:
        return row | png(values, place / f"{stem}.png")
    ct = is_ct(like, maker.run.fingerprint)
    standard = maker.run.recipe.standards()[Modality.VOLUME]
    if ct:
        assert isinstance(standard, VolumeStandard)
        values = in_hu(values, standard, maker.run.fingerprint)
    return row | nifti(
        values, to_world(values, frame, part, i), place / f"{stem}.nii.gz", "HU" if ct else "standardised"
    )


def to_world(values: np.ndarray, frame: Payload | None, part: Made, i: int) -> np.ndarray:
    """Index → mm of a volume: in its patient's frame where it has one, else about 0 in axes of nobody."""
    shape = values.shape[1:]
    if frame is not None and frame.to_world is not None:
        start = [
            (n - b) // 2 for n, b in zip(frame.array.shape[1:], shape, strict=True)
        ]  # of a whole volume, the box in the middle
        shift = np.eye(4)
        shift[:3, 3] = start[::-1]
        return frame.to_world @ shift
    template = part.like[i].payload.to_world
    spacing = spacing_of(template) if template is not None else np.ones(3)
    matrix = np.diag([*spacing, 1.0])
    matrix[:3, 3] = -spacing * (np.array(shape[::-1]) - 1) / 2
    return matrix


def png(values: np.ndarray, path: Path) -> dict[str, Any]:
    """An image (c y x) with a strip below it that says what it is.

    Returns:
        of the manifest: the file, its hash, where in it the picture is, and the values of its black and white.
    """
    from PIL import Image, ImageDraw, PngImagePlugin

    low, high = (float(v) for v in np.percentile(values, [0.5, 99.5]))
    eight = (np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(eight[0] if len(eight) == 1 else np.moveaxis(eight[:3], 0, -1))
    left, top, right, bottom = (round(v) for v in ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), MARK))
    wide = max(picture.width, right - left + 4)
    sheet = Image.new(picture.mode, (wide, picture.height + bottom - top + 6), 0 if picture.mode == "L" else (0, 0, 0))
    sheet.paste(picture, (0, 0))
    ImageDraw.Draw(sheet).text(
        (2 - left, picture.height + 3 - top), MARK, fill=255 if picture.mode == "L" else (255, 255, 255)
    )
    words = PngImagePlugin.PngInfo()
    words.add_text(MARK, NOTICE)
    sheet.save(path, "PNG", pnginfo=words)
    return {
        "file": path.name, "hash": file_hash(path), "picture": [picture.height, picture.width], "grey": [low, high], "unit": "standardised",
    }  # fmt: skip


def nifti(values: np.ndarray, world: np.ndarray, path: Path, unit: str) -> dict[str, Any]:
    """A volume (1 z y x) in LPS mm; the header says what it is."""
    try:
        import nibabel as nib
    except ImportError as error:
        raise MissingExtraError("nibabel", "volumes") from error
    image = nib.Nifti1Image(values[0].transpose().astype(np.int16 if unit == "HU" else np.float32), LPS_TO_RAS @ world)  # pyright: ignore[reportPrivateImportUsage]
    image.header["descrip"] = NOTICE[:79].encode()
    image.header["intent_name"] = MARK.encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", NOTICE.encode()))  # pyright: ignore[reportAttributeAccessIssue]
    nib.save(image, path)  # pyright: ignore[reportPrivateImportUsage]
    return {"file": path.name, "hash": file_hash(path), "spacing_mm": spacing_of(world)[::-1].tolist(), "unit": unit}
