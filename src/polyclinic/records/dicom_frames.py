"""The frames of a DICOM file, read and decoded one at a time (`pydicom`, `pylibjpeg`): a slide's gigabytes stay on the disk.

Source: DICOM PS3.5 A.4 (packed frames and their offset tables), PS3.3 C.7.6.3 (pixels).
"""

from __future__ import annotations

import struct
from typing import IO, Any

import numpy as np

from .dicom_header import frames, text
from .packed import frame_size
from .source import RecordError

_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


class Frames:
    """The frames of an open file.

    Args:
        dataset: its header, with Rows, Columns, BitsAllocated and BitsStored.
        file: open for reading, as long as frames are wanted.
    Raises:
        RecordError: there are fewer frames than the header says.
    """

    def __init__(self, dataset: Any, file: IO[bytes]) -> None:
        from pydicom import dcmread

        self.dataset, self.file, self.count = dataset, file, frames(dataset)
        self.syntax = dataset.file_meta.TransferSyntaxUID
        self.size = int(dataset.Rows), int(dataset.Columns)
        self.samples = int(dataset.get("SamplesPerPixel") or 1)
        self.photometric = text(dataset, "PhotometricInterpretation")
        if self.syntax.is_deflated or not self.syntax.is_little_endian:
            raise RecordError(f"a slide in {self.syntax.name}", "frames that can be read one by one", "export it again")
        dcmread(file, stop_before_pixels=True, specific_tags=["Rows"])  # leaves the file at its pixel data
        place = file.tell()
        self.length = file.seek(0, 2)
        file.seek(place)
        tag = file.read(8 if self.syntax.is_implicit_VR else 12)
        if tag[:4] != b"\xe0\x7f\x10\x00":
            raise RecordError("a slide without pixel data", "(7FE0,0010)", "send it again from the PACS")
        self.start = file.tell()
        self.fragments, self.first = self._packed() if self.syntax.is_encapsulated else self._native()

    def _native(self) -> tuple[np.ndarray, np.ndarray]:
        bits = self.size[0] * self.size[1] * self.samples * int(self.dataset.BitsAllocated)
        each = (bits * 2 // 3 if self.photometric == "YBR_FULL_422" else bits) // 8
        if self.start + each * self.count > self.length:
            raise self._short((self.length - self.start) // each)
        return np.array([[self.start, each]], np.int64), np.empty(0, np.int64)

    def _packed(self) -> tuple[np.ndarray, np.ndarray]:
        """(f 2) start and length of each fragment, and (n,) which is each frame's first.

        The fragments' own lengths are gone by; an offset table only says which make up a frame, where some have several.
        """
        items: list[tuple[int, int]] = []
        place = self.start
        while True:
            self.file.seek(place)
            head = self.file.read(8)
            if head[:4] == _END:
                break
            length = struct.unpack("<L", head[4:])[0] if len(head) == 8 else 0
            if head[:4] != _ITEM or place + 8 + length > self.length:
                raise self._short(min(max(0, len(items) - 1), self.count))
            items.append((place + 8, length))
            place += 8 + length
        if len(items) < 2:
            raise self._short(0)
        fragments = np.array(items[1:], np.int64)
        if len(fragments) == self.count:
            return fragments, np.arange(self.count)
        starts = self._offsets(*items[0]) if self.count > 1 else np.zeros(1, np.int64)
        known = fragments[:, 0] - fragments[0, 0]
        first = np.searchsorted(known, starts)
        if len(starts) != self.count or first[-1] >= len(known) or (known[first] != starts).any():
            raise self._short(min(len(fragments), self.count))
        return fragments, first

    def _offsets(self, start: int, length: int) -> np.ndarray:
        if extended := self.dataset.get("ExtendedOffsetTable"):
            return np.frombuffer(extended[: len(extended) // 8 * 8], "<u8").astype(np.int64)
        self.file.seek(start)
        return np.frombuffer(self.file.read(length // 4 * 4), "<u4").astype(np.int64)

    def _short(self, has: int) -> RecordError:
        return RecordError(
            f"pixel data that was cut short: {has} of {self.count} frames", "as many as the header says",
            "send it again from the PACS",
        )  # fmt: skip

    def _bytes(self, number: int) -> bytes:
        if not len(self.first):
            start, each = self.fragments[0].tolist()
            spans = [(start + number * each, each)]
        else:
            last = self.first[number + 1] if number + 1 < self.count else len(self.fragments)
            spans = self.fragments[self.first[number] : last].tolist()
        parts = []
        for start, length in spans:
            self.file.seek(start)
            parts.append(self.file.read(length))
        return b"".join(parts)

    def pixels(self, number: int) -> np.ndarray:
        """(h w c) of a frame, counted from 0: in RGB, or grey with white bright.

        Raises:
            RecordError: it does not decode.
        """
        from pydicom.encaps import encapsulate
        from pydicom.pixels.decoders.base import get_decoder

        data = self._bytes(number)
        if self.syntax.is_encapsulated:
            own = frame_size(data)
            if own is not None and own != self.size:
                raise RecordError(
                    f"a frame of {own[0]} × {own[1]} pixels under a header of {self.size[0]} × {self.size[1]}", "one size",
                    "send it again from the PACS",
                )  # fmt: skip
            data = encapsulate([data], has_bot=False)
        options: dict[str, Any] = {
            "rows": self.size[0],
            "columns": self.size[1],
            "number_of_frames": 1,
            "samples_per_pixel": self.samples,
            "bits_allocated": int(self.dataset.BitsAllocated),
            "bits_stored": int(self.dataset.BitsStored),
            "photometric_interpretation": self.photometric,
            "pixel_representation": int(self.dataset.get("PixelRepresentation") or 0),
            "pixel_keyword": "PixelData",
        }
        if self.samples > 1:
            options["planar_configuration"] = int(self.dataset.get("PlanarConfiguration") or 0)
        try:
            pixels = np.asarray(get_decoder(self.syntax).as_array(data, **options)[0])
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a decoder written in Rust panics, which is no Exception
            raise RecordError(
                f"a frame that does not decode ({type(error).__name__})", "a transfer syntax that pylibjpeg knows",
                "send it again, or decompress it on the PACS",
            ) from error  # fmt: skip
        pixels = pixels.reshape(*self.size, self.samples)
        if self.photometric != "MONOCHROME1":
            return pixels
        return (2 ** int(self.dataset.BitsStored) - 1 - pixels).astype(pixels.dtype)
