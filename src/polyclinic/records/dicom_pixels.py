"""DICOM pixels as they are meant to be seen (`pydicom`, `pylibjpeg`), of one image or frame by frame.

Source: DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.6.3.1.2 (photometric interpretation).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .dicom_header import MEASURED, frames, text
from .packed import check_codestream, frame_size
from .raster import LUMINANCE, channels_first
from .source import RecordError, check_size


def check(dataset: Any) -> None:
    """Refuse an object without pixels, or one whose header promises more than any honest file would.

    Raises:
        RecordError: with what the header says.
    """
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise RecordError("a DICOM object without pixels", "Rows and Columns (PS3.3 C.7.6.3)", "leave it out")
    samples = int(dataset.get("SamplesPerPixel") or 1)
    check_size((frames(dataset), int(dataset.Rows), int(dataset.Columns), samples), 4)


def image(dataset: Any) -> np.ndarray:
    """(c y x) float32 of a single frame: modality LUT for CT and PET units, VOI window for the rest, white is bright.

    c is 3 where it is in colours, of whichever photometric interpretation: pydicom's decoders give RGB.
    """
    try:
        check_codestream(dataset)
        pixels = np.asarray(dataset.pixel_array)
        return channels_first(seen(pixels, dataset))
    except (RecordError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a decoder written in Rust panics, which is no Exception
        raise _broken(dataset, error) from error


def each(dataset: Any, which: Sequence[int] | None = None, stored: bool = False) -> Iterator[np.ndarray]:
    """The frames, (y x) or (y x 3), one after the other; no more than one is held.

    Args:
        dataset: with its pixels.
        which: their numbers from 0, in the order wanted; all if None.
        stored: as they are stored, else as `seen`.
    Raises:
        RecordError: there are fewer than the header says, or they do not decode.
    """
    from pydicom.pixels.utils import iter_pixels

    check_frames(dataset)
    syntax = dataset.file_meta.TransferSyntaxUID
    alone = int(dataset.BitsAllocated) == 1 and syntax.is_little_endian and not syntax.is_encapsulated
    try:
        for pixels in _single_bits(dataset, which) if alone else iter_pixels(dataset, indices=which):
            yield pixels if stored else seen(pixels, dataset)
    except (GeneratorExit, RecordError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise _broken(dataset, error) from error


def _single_bits(dataset: Any, which: Sequence[int] | None) -> Iterator[np.ndarray]:
    """(y x) of each frame: with one bit a pixel it begins within a byte, where the last one ended (PS3.5 8.1.1)."""
    size, data = int(dataset.Rows) * int(dataset.Columns), dataset.PixelData
    for frame in range(frames(dataset)) if which is None else which:
        start, within = divmod(frame * size, 8)
        packed = np.frombuffer(data[start : start + -(-(within + size) // 8)], np.uint8)
        bits = np.unpackbits(packed, bitorder="little")[within : within + size]
        yield bits.reshape(int(dataset.Rows), int(dataset.Columns))


def _broken(dataset: Any, error: BaseException) -> RecordError:
    return RecordError(
        f"pixels that do not decode ({type(error).__name__})",
        f"{dataset.Rows} × {dataset.Columns} pixels in a transfer syntax that pylibjpeg knows",
        "send it again, or decompress it on the PACS",
    )


def check_frames(dataset: Any) -> None:
    """Refuse pixel data that is shorter than its header says, before anything is allocated for it.

    Raises:
        RecordError: with how many frames there are.
    """
    from pydicom.encaps import generate_frames

    promised, size = frames(dataset), (int(dataset.Rows), int(dataset.Columns))
    data = dataset.get("PixelData") or b""
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        bits = promised * size[0] * size[1] * int(dataset.get("SamplesPerPixel") or 1) * int(dataset.BitsAllocated)
        bits = bits * 2 // 3 if text(dataset, "PhotometricInterpretation") == "YBR_FULL_422" else bits
        if len(data) < bits // 8:
            raise _short(f"{len(data)} of {bits // 8} bytes")
        return
    count = 0
    try:
        for frame in generate_frames(data, number_of_frames=promised):
            own = frame_size(frame)
            if own is not None and own != size:
                raise RecordError(
                    f"a frame of {own[0]} × {own[1]} pixels under a header of {size[0]} × {size[1]}", "one size",
                    "send it again from the PACS",
                )  # fmt: skip
            count += 1
    except RecordError:
        raise
    except Exception as error:
        raise _short(f"{count} of {promised} frames") from error
    if count != promised:
        raise _short(f"{count} of {promised} frames")


def _short(has: str) -> RecordError:
    return RecordError(
        f"pixel data that was cut short: {has}", "as many frames as the header says", "send it again from the PACS"
    )


def seen(pixels: np.ndarray, dataset: Any) -> np.ndarray:
    """(y x) or (y x 3) as meant to be seen, by the LUTs at the top of the dataset; white is bright."""
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

    measured = text(dataset, "Modality") in MEASURED
    photometric = text(dataset, "PhotometricInterpretation")
    if photometric == "PALETTE COLOR":
        pixels = np.asarray(apply_color_lut(pixels, dataset))
    elif pixels.ndim == 2:
        pixels = np.asarray(apply_modality_lut(pixels, dataset))
        pixels = pixels if measured else np.asarray(apply_voi_lut(pixels, dataset))
    pixels = pixels.astype(np.float32)
    return upright(pixels, dataset)


def upright(pixels: np.ndarray, dataset: Any) -> np.ndarray:
    """Grey values that are shown inverted, turned round; what measures stays: HU do not depend on how they are shown."""
    if text(dataset, "PhotometricInterpretation") != "MONOCHROME1" or text(dataset, "Modality") in MEASURED:
        return pixels
    if frames(dataset) == 1:
        return pixels.max() + pixels.min() - pixels
    return 2.0 ** int(dataset.BitsStored) - 1 - pixels  # about one value for all frames, or a clip would flicker


def grey(pixels: np.ndarray) -> np.ndarray:
    """(y x) float32 luminance."""
    return pixels[..., :3] @ LUMINANCE if pixels.ndim == 3 else pixels
