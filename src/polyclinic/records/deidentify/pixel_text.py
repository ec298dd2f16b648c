"""Text in pixels of DICOM objects and pictures: looked for, and set aside, listed for a person, or blanked, as the options say.

Blanked are the boxes and nothing else: every other stored value stays as it is. So packed DICOM pixels are written unpacked (to pack them
anew could change them all), and a JPEG picture, which has no unpacked form, is set aside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import dicom_pixels, slide_tiff
from ..source import RecordError
from . import burned_in, pictures
from .burned_in import Line
from .cleaning import Cleaning

PIXELS = "(7FE0,0010) PixelData"
MOST_LOOKED_AT = 32
"""Frames of a series that are looked at where it is only to be judged; all are where it is to be blanked."""
_NOT_LOOKED_AT = frozenset({"SEG", "RTDOSE", "SM"})
"""Numbers of labels, doses, and tissue: a slide's words are on its label, which is never copied, and its overview, which is flagged."""
_UNPACKED = "1.2.840.10008.1.2.1"


def dicom(dataset: Any, cleaning: Cleaning) -> None:
    """Look into an object's pixels; blank in place what looks like text, where that is wished.

    Raises:
        RecordError: it is not to be copied, and why.
    """
    if "PixelData" not in dataset or str(dataset.get("Modality")) in _NOT_LOOKED_AT:
        return
    blank = cleaning.options.burned_in == "blank"
    try:
        lines = _in_frames(dataset, every=blank)
    except RecordError as error:
        if cleaning.options.burned_in != "keep":
            raise
        cleaning.ask(PIXELS, f"could not be looked into for text: {error.found}")
        return
    if not lines:
        return
    if blank:
        _blank(dataset, lines)
    _tell(lines, PIXELS, cleaning)


def picture(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write a picture alone, and deal with the text in its pixels.

    Raises:
        RecordError: it is not to be copied, and why.
    """
    for place, action in pictures.deidentify(path, to):
        cleaning.did(place, action)
    cleaning.ask("pixels", "a picture says nothing of itself: text may be burned in")
    try:
        planes = _planes(to)
    except RecordError as error:
        if cleaning.options.burned_in != "keep":
            raise
        cleaning.ask("pixels", f"could not be looked into for text: {error.found}")
        return
    lines = burned_in.apart(line for plane in planes for line in burned_in.lines_of_text(plane))
    if not lines:
        return
    if cleaning.options.burned_in == "blank":
        _blank_picture(to, lines)
    _tell(lines, "pixels", cleaning)


def _tell(lines: Sequence[Line], place: str, cleaning: Cleaning) -> None:
    """Refuse it, or list the boxes."""
    where = [f"rows {one.top}–{one.bottom - 1}, columns {one.left}–{one.right - 1}" for one in lines]
    match cleaning.options.burned_in:
        case "aside":
            raise RecordError(
                f"what looks like text in its pixels: {'; '.join(where[:4])}{' …' if len(where) > 4 else ''}",
                "pixels without a person's name",
                "look at it; have it blanked (burned-in blank) or, if it says nothing of anybody, keep it (burned-in keep)",
            )
        case "keep":
            for box in where:
                cleaning.ask(f"{place} {box}", "looks like text")
        case "blank":
            for box in where:
                cleaning.did(f"{place} {box}", "C: blanked")
                cleaning.ask(f"{place} {box}", "looked like text and was blanked: is it all, and was it text?")


def _in_frames(dataset: Any, every: bool) -> list[Line]:
    """What looks like text in any of the frames."""
    from pydicom.pixels.processing import apply_color_lut

    try:
        count = int(dataset.get("NumberOfFrames") or 1)
        few = np.unique(np.linspace(0, count - 1, min(count, MOST_LOOKED_AT)).astype(int)).tolist()
        found: list[Line] = []
        for pixels in dicom_pixels.each(dataset, None if every else few, stored=True):
            coloured = dataset.get("PhotometricInterpretation") == "PALETTE COLOR"
            seen = np.asarray(apply_color_lut(pixels, dataset)) if coloured else pixels
            found = burned_in.apart([*found, *burned_in.lines_of_text(seen)])
        return found
    except RecordError:
        raise
    except Exception as error:
        raise RecordError(
            f"pixels that do not decode ({type(error).__name__})", "pixels as the header says", "send it again"
        ) from error


def _blank(dataset: Any, lines: Iterable[Line]) -> None:
    """Give the boxes the darkest value in every frame.

    Raises:
        RecordError: the values are not stored one by one.
    """
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dataset.decompress(as_rgb=True, generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = type(dataset.file_meta.TransferSyntaxUID)(_UNPACKED)
    bits, photometric = int(dataset.BitsAllocated), str(dataset.PhotometricInterpretation)
    if bits not in (8, 16, 32) or photometric == "YBR_FULL_422":
        raise RecordError(
            f"text in pixels of {bits} bits in {photometric}", "values that are stored one by one",
            "blank it by hand, or convert it",
        )  # fmt: skip
    samples, planar = int(dataset.SamplesPerPixel), int(dataset.get("PlanarConfiguration") or 0)
    order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    kind = "i" if int(dataset.PixelRepresentation) else "u"
    data = bytearray(dataset.PixelData)
    rows, columns, count = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames") or 1)
    values = np.frombuffer(data, f"{order}{kind}{bits // 8}", count * rows * columns * samples)
    shape = (count, samples, rows, columns) if samples > 1 and planar else (count, rows, columns, samples)
    frames = values.reshape(shape)
    frames = np.moveaxis(frames, 1, -1) if samples > 1 and planar else frames
    fill = _darkest(dataset, frames, photometric)
    for line in lines:
        frames[:, line.top : line.bottom, line.left : line.right] = fill
    dataset.PixelData = bytes(data)


def _darkest(dataset: Any, frames: np.ndarray, photometric: str) -> Any:
    """What is shown darkest of the values that are there."""
    match photometric:
        case "MONOCHROME1":
            return frames.max()
        case "YBR_FULL":
            return np.array([0, 128, 128])  # PS3.3 C.7.6.3.1.2
        case "PALETTE COLOR":
            from pydicom.pixels.processing import apply_color_lut

            there = np.unique(frames)
            colours = np.asarray(apply_color_lut(there[None], dataset))[0, :, :3]
            return there[int(colours.astype(float).sum(-1).argmin())]
        case "RGB":
            return 0
        case _:
            return frames.min()


def _planes(path: Path) -> list[np.ndarray]:
    """The pages of a picture, (y x) or (y x c)."""
    import PIL.Image

    try:
        with path.open("rb") as file:
            if file.read(4) in slide_tiff.MAGIC:
                return _pages(path)
        with PIL.Image.open(path, formats=("PNG", "JPEG", "MPO")) as image:
            deep = image.mode[0] in "IF" or image.mode == "L"
            return [np.asarray(image if deep else image.convert("RGB"))]
    except Exception as error:
        raise RecordError(
            f"a picture that does not decode ({type(error).__name__})", "a whole picture", "copy it again"
        ) from error


def _pages(path: Path) -> list[np.ndarray]:
    """As `tifffile` has them, where it is there; else as Pillow does."""
    import PIL.Image
    import PIL.ImageSequence

    try:
        from tifffile import TiffFile
    except ImportError:
        with PIL.Image.open(path) as image:
            return [np.asarray(page) for page in PIL.ImageSequence.Iterator(image)]
    with TiffFile(path) as file:
        pages = [np.asarray(page.asarray(maxworkers=1)) for page in file.pages]
    return [np.moveaxis(p, 0, -1) if p.ndim == 3 and p.shape[0] in (3, 4) else p for p in pages]


def _blank_picture(path: Path, lines: Sequence[Line]) -> None:
    """Write the picture anew with black boxes; PNG and TIFF of one page, whose other pixels stay as they are.

    Raises:
        RecordError: they would not.
    """
    import PIL.Image

    with PIL.Image.open(path) as image:
        image.load()
        pixels, mode, form = np.array(image), image.mode, str(image.format)
        palette, transparency = image.getpalette(), image.info.get("transparency")
        # Pillow gives 8 of the 16 bits of a channel of a deep picture in colours
        deep = form == "PNG" and path.read_bytes()[24] == 16 and mode[0] not in "I"
        if form not in ("PNG", "TIFF") or getattr(image, "n_frames", 1) > 1 or deep or mode in ("CMYK", "LAB", "YCbCr"):
            raise RecordError(
                f"text in a {form} picture that cannot be blanked without changing the rest of it", "a PNG, or a TIFF of one page",
                "convert it to PNG and run again, or blank it by hand",
            )  # fmt: skip
        if form == "TIFF" and image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
            raise RecordError(
                "text in a TIFF that is packed as JPEG", "a lossless one", "convert it to PNG and run again"
            )
    for line in lines:
        if mode in ("LA", "RGBA"):
            pixels[line.box] = [0] * (pixels.shape[-1] - 1) + [255]
        elif mode == "P":
            colours = np.array(palette or []).reshape(-1, 3).sum(-1)
            pixels[line.box] = int(colours.argmin())
        else:
            pixels[line.box] = 0
    new = PIL.Image.fromarray(pixels)
    if mode == "P" and palette:
        new.putpalette(palette)
    more = {} if transparency is None or form == "TIFF" else {"transparency": transparency}
    new.save(path, format=form, **more)
