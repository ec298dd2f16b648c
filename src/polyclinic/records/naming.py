"""What a file's name and folders say of an image that says nothing itself: whose it is, and whether it is a mask.

Only the place below the ingested folder counts, so that the answer does not depend on where that folder lies.
"""

from __future__ import annotations

import re
from pathlib import PurePath, PurePosixPath

MASK_FOLDERS = frozenset(
    {"labels", "masks", "segmentations", "label", "mask", "seg", "labelstr", "labelsts", "lung_masks"}
)
PLAIN_FOLDERS = frozenset(
    {"images", "image", "data", "nifti", "volumes", "imagestr", "imagests", "anat", "mri", "mr", "ct"}
)
IMAGE_FOLDERS = frozenset({"images", "image", "imagestr", "imagests"})
_LITTER_NAMES = {"thumbs.db", "desktop.ini", "dicomdir"}
_LITTER_ENDINGS = {".md", ".py", ".bib"}
_LITTER_STEMS = {"readme", "license", "licence", "notice", "attribution", "schema", "copying"}
_WHAT = set(
    re.findall(
        r"\w+",
        "ct mr mri pet pt t1 t2 t1w t2w t1c t1ce t1gd flair dwi adc dicom dcm nii nifti image img volume vol scan series "
        "seg segmentation segmentations mask masks label labels labelmap roi gt truth manual auto pred prediction organ organs "
        "lesion lesions tumor tumour",
    )
)
"""Words of a name that say what a file is, and not whose."""
_MASK_ENDING = re.compile(r"[_-](seg|mask|label|segmentation)$", re.IGNORECASE)
_FORM_ENDING = re.compile(r"([_-](sm|small|dicom|dcm|nifti|nii|lowres|resampled|resized|cropped))+$", re.IGNORECASE)
_FOLDS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "dev": "validation", "development": "validation", "test": "test", "testing": "test",
}  # fmt: skip
_PERSON = re.compile(r"^(sub|subject|patient|pat|person|case)([-_ ]\w*)?\d\w*$", re.IGNORECASE)


def litter(place: PurePath) -> bool:
    """Whether a file is no record by its name: hidden files, system files, papers about the data."""
    return (
        any(p.startswith(".") or p == "__MACOSX" for p in place.parts)
        or place.name.lower() in _LITTER_NAMES
        or place.suffix.lower() in _LITTER_ENDINGS
        or place.stem.lower() in _LITTER_STEMS
    )


def without_mask(stem: str) -> str:
    """The stem that an image and its mask share: without `_seg`, `_mask` and the like."""
    return _MASK_ENDING.sub("", stem)


def without_form(name: str) -> str:
    """A name without what says only in which form the scan lies there: `p12_ct_dicom`, `p12_ct` and `p12_ct_sm` are one patient's.

    What says that it is another scan (`_mr`, `_followup`) stays: nothing pretends to know that it is of the same person.
    """
    return _FORM_ENDING.sub("", name) or name


def is_mask(place: str) -> bool:
    """Whether a folder or the name says that it is a mask."""
    path = PurePosixPath(place)
    return any(f.lower() in MASK_FOLDERS for f in path.parent.parts) or bool(
        _MASK_ENDING.search(path.name.split(".")[0])
    )


def is_image(place: str) -> bool:
    """Whether a folder says that it holds images."""
    return any(f.lower() in IMAGE_FOLDERS for f in PurePosixPath(place).parent.parts)


def case_words(name: str) -> list[str]:
    """What of a name may tell a case from another: of `P12_ct_seg.nii.gz`, `p12`."""
    return sorted({w for w in re.split(r"[^a-z0-9]+", re.sub(r"\.nii(\.gz)?$", "", name.lower())) if w} - _WHAT)


def telling(place: str) -> list[str]:
    """The folders that tell one case from another: an image and its mask share them (`labels/P1/ct.nii`, `images/P1/ct.nii`)."""
    return [f for f in PurePosixPath(place).parent.parts if f.lower() not in MASK_FOLDERS | PLAIN_FOLDERS]


def patient_of(place: str, stem: str) -> str | None:
    """Whose an image is, by its folders; None where they do not say. A table's column of file names overrules it.

    In this order: a folder that says so (`patient0012`, `sub-07`, `case_3`), a folder that the name begins with, the nearest
    folder with a digit if the name has none (`0012/ct.nii.gz`).
    """
    folders = PurePosixPath(place).parent.parts
    for folder in folders:
        if _PERSON.match(folder):
            return folder
    for folder in reversed(folders):
        if re.search(r"\d", folder) and (stem.startswith(folder) or not re.search(r"\d", stem)):
            return folder
    return None


def fold_of(place: str) -> str | None:
    """Which part of a divided data set a file is, by its name or else its nearest folder: `train`, `validation` or `test`."""
    for part in reversed(PurePosixPath(place).parts):
        words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", part).lower())
        if found := next((_FOLDS[w] for w in words if w in _FOLDS), None):
            return found
    return None
