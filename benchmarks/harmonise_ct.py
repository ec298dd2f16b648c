"""A CT of 256×256×120 voxels at 0.9×0.9×2.5 mm to 1.5 mm with a window, beside MONAI's `Compose` and SimpleITK.

All three: axes to RAS or LPS, linear interpolation between neighbours onto the grid that holds the whole volume, HU −160 to 240 to 0
and 1. Ours is the harmoniser that training calls. `equal_output` compares ours with each peer's voxel by voxel, on the voxels
whose places agree: the three begin their grids at the same corner.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from polyclinic.harmonise import Fingerprint, VolumeStandard, harmonise
from polyclinic.schema import Modality, Payload, Record

SHAPE, SPACING_MM, TARGET_MM, WINDOW_HU = (120, 256, 256), (2.5, 0.9, 0.9), 1.5, (-160.0, 240.0)
ROUNDS = 25
RECORD = Record("ct", "P", None, Modality.VOLUME, "CT", "ct")
STANDARD = VolumeStandard(spacing_mm=(TARGET_MM, TARGET_MM, TARGET_MM), size=None, window_hu=WINDOW_HU, average=False)
NOTHING = Fingerprint()


def body(seed: int) -> np.ndarray:
    """(z y x) int16 HU: organs as ellipsoids in a body in air, with noise; smooth enough that interpolation means something."""
    draw = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in SHAPE), indexing="ij")
    hu = np.where(x**2 / 0.8 + y**2 / 0.5 < 1, 40.0, -1000.0).astype(np.float32)
    for _ in range(12):
        centre, radius = draw.uniform(-0.5, 0.5, 3), draw.uniform(0.1, 0.3, 3)
        inside = ((z - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2 + (
            (x - centre[2]) / radius[2]
        ) ** 2 < 1
        hu[inside] = draw.uniform(-800, 900)
    return (hu + draw.normal(0, 10, SHAPE).astype(np.float32)).astype(np.int16)


def ours(hu: np.ndarray, to_world: np.ndarray) -> np.ndarray:
    return harmonise(Payload(hu[None], to_world), RECORD, STANDARD, NOTHING).array[0]


def monai(hu: np.ndarray, to_world: np.ndarray) -> Callable[[], np.ndarray]:
    """With MONAI's own order of axes (x y z) and its RAS affine; what a user writes."""
    from monai.data.meta_tensor import MetaTensor
    from monai.transforms.compose import Compose
    from monai.transforms.intensity.array import ScaleIntensityRange
    from monai.transforms.spatial.array import Orientation, Spacing

    steps = Compose(
        [
            Orientation(axcodes="LPS", labels=None),
            Spacing(pixdim=(TARGET_MM,) * 3, mode="bilinear", padding_mode="border"),
            ScaleIntensityRange(*WINDOW_HU, 0.0, 1.0, clip=True),
        ]
    )
    affine = torch.from_numpy(np.diag([-1.0, -1, 1, 1]) @ to_world)
    source = torch.from_numpy(np.ascontiguousarray(hu.transpose(2, 1, 0)))[None]

    def step() -> np.ndarray:
        found = steps(MetaTensor(source, affine=affine))
        return np.asarray(found)[0].transpose(2, 1, 0)

    return step


def simpleitk(hu: np.ndarray, to_world: np.ndarray) -> Callable[[], np.ndarray]:
    import SimpleITK

    spacing = np.linalg.norm(to_world[:3, :3], axis=0)
    source = SimpleITK.GetImageFromArray(hu)
    source.SetSpacing(spacing.tolist())
    source.SetDirection((to_world[:3, :3] / spacing).reshape(-1).tolist())
    source.SetOrigin(to_world[:3, 3].tolist())
    size = (np.rint((np.array(SHAPE[::-1]) - 1) * spacing / TARGET_MM) + 1).astype(int).tolist()

    def step() -> np.ndarray:
        turned = SimpleITK.DICOMOrient(source, "LPS")
        found = SimpleITK.Resample(
            turned, size, SimpleITK.Transform(), SimpleITK.sitkLinear, turned.GetOrigin(), [TARGET_MM] * 3,
            turned.GetDirection(), -1000.0, SimpleITK.sitkFloat32,
        )  # fmt: skip
        return SimpleITK.GetArrayFromImage(SimpleITK.IntensityWindowing(found, *WINDOW_HU, 0.0, 1.0))

    return step


def timed(functions: dict[str, Callable[[], np.ndarray]], rounds: int) -> dict[str, float]:
    """Median ms of each; they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 2):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number >= 2:  # the first two warm the caches
                taken[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in taken.items()}


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The share of voxels that differ by over a thousandth of the window."""
    shape = tuple(min(a, b) for a, b in zip(one.shape, other.shape, strict=True))
    part = tuple(slice(n) for n in shape)
    assert max(abs(a - b) for a, b in zip(one.shape, other.shape, strict=True)) <= 1, (one.shape, other.shape)
    return float((np.abs(one[part] - other[part]) > 1e-3).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see that it runs")
    rounds = 3 if parser.parse_args().quick else ROUNDS
    hu = body(0)
    to_world = np.diag(
        [-SPACING_MM[2], SPACING_MM[1], SPACING_MM[0], 1.0]
    )  # from the patient's left to the right: to be turned
    functions = {"ours": lambda: ours(hu, to_world), "monai": monai(hu, to_world), "simpleitk": simpleitk(hu, to_world)}
    made = {name: function() for name, function in functions.items()}
    off = {name: apart(made["ours"], made[name]) for name in ("monai", "simpleitk")}
    taken = timed(functions, rounds)
    print(f"{'':12}{'ms':>8}{'shape':>18}{'voxels that differ':>22}")
    for name, ms in taken.items():
        print(f"{name:12}{ms:8.1f}{made[name].shape!s:>18}{'' if name == 'ours' else f'{off[name]:.2%}':>22}")
    print(
        f"ours is {taken['monai'] / taken['ours']:.1f} times MONAI and {taken['simpleitk'] / taken['ours']:.1f} times SimpleITK"
    )
    figure = {
        "name": "harmonise_ct", "ours": 1000 / taken["ours"], "peer": 1000 / taken["monai"], "unit": "volumes/s",
        "ratio": taken["monai"] / taken["ours"], "n": rounds, "simpleitk_ratio": taken["simpleitk"] / taken["ours"],
        "equal_output": f"all but {off['monai']:.2%} (MONAI) and {off['simpleitk']:.2%} (SimpleITK) of the voxels agree to 0.001",
    }  # fmt: skip
    print(json.dumps(figure))


if __name__ == "__main__":
    main()
