"""The three hospitals of the phantom, and what their devices do to a measurement."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Site:
    """A hospital and its devices.

    Args:
        name: as it stands in headers.
        spanish: the share of its reports that are written in Spanish.
        refers: log-odds a level of severity of being the hospital that a patient comes to; its referral bias.
        treats: log-odds by which its doctors treat more readily than elsewhere.
        annotates: the share of its studies with masks, and of its patients with coded diagnoses.
        maker: of its devices.
        ct_noise_hu: standard deviation in soft tissue.
        ct_psf_mm: standard deviation of the in-plane point spread.
        kvp: tube voltage of the CT; bone is brighter at a lower one.
        photons: of the radiograph's open beam, a pixel of 1 mm².
        mr_noise: standard deviation of each channel over the brightest tissue's signal.
        mr_bias: standard deviation of the logarithm of the receive field.
        us_mhz: the ultrasound probe's centre frequency.
        ecg_rate_hz: samples a second.
        ecg_noise_mv: standard deviation of the muscle's noise.
        lab_bias: logarithm of what its laboratory's calibration multiplies concentrations by.
        library: reads a sample of its sequencer.
    """

    name: str
    spanish: float
    refers: float
    treats: float
    annotates: float
    maker: str
    ct_noise_hu: float
    ct_psf_mm: float
    kvp: int
    photons: float
    mr_noise: float
    mr_bias: float
    us_mhz: float
    ecg_rate_hz: int
    ecg_noise_mv: float
    lab_bias: float
    library: float


SITES = (
    Site("Harbour General", 0.1, 0.0, 0.0, 0.5, "Orion Imaging", 18.0, 2.0, 120, 300.0, 0.02, 0.10, 3.0, 500, 0.010, 0.0, 4e5),
    Site("Hill University", 0.3, 0.6, 0.5, 0.8, "Vega Medical", 12.0, 1.5, 100, 500.0, 0.01, 0.15, 3.5, 500, 0.006, 0.05, 6e5),
    Site("Hospital del Valle", 0.95, -0.4, -0.5, 0.2, "Lyra Systems", 28.0, 3.0, 120, 150.0, 0.04, 0.25, 2.5, 250, 0.020, -0.08, 2e5),
)  # fmt: skip
