"""What a run cost: energy where it can be measured, otherwise processor time, said to be that."""

from __future__ import annotations

import logging
import time
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any


class Meter:
    """Measures from its making to `read`.

    Energy is codecarbon's (the extra `energy`), in its offline mode: nothing is sent. It reads the processor's own counters where the
    machine lets it and else estimates from the processor's model. Its offline mode wants a country, by which it turns energy into
    emissions; those are not taken, since nobody has said where the machine stands.
    """

    def __init__(self) -> None:
        self.began, self.processor = time.monotonic(), time.process_time()
        self.tracker: Any = None
        if find_spec("codecarbon") is not None:
            from codecarbon import OfflineEmissionsTracker  # type: ignore[import-not-found]

            quiet = logging.getLogger("codecarbon")
            quiet.disabled = True  # it speaks before its own `log_level` counts
            self.tracker = OfflineEmissionsTracker(
                country_iso_code="DEU", tracking_mode="process", output_methods=[], log_level="error", allow_multiple_runs=True
            )  # fmt: skip
            self.tracker.start()

    def read(self) -> dict[str, Any]:
        """Seconds by the wall and of the processor; kWh where they were measured, and how."""
        found: dict[str, Any] = {
            "wall_s": round(time.monotonic() - self.began, 2),
            "processor_s": round(time.process_time() - self.processor, 2),
            "energy_kwh": None,
            "measured": "processor time of the processes; no energy (polyclinic[energy] measures it)",
        }
        if self.tracker is not None:
            self.tracker.stop()
            measured = getattr(self.tracker, "final_emissions_data", None)  # it keeps its own failures to itself
            if measured is not None:
                found["energy_kwh"] = float(measured.energy_consumed)
                found["measured"] = f"codecarbon {version('codecarbon')}, offline, of the processes"
            self.tracker = None
        return found


def together(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """What all ranks took: the longest wall time, the sum of the rest."""
    energies = [r["energy_kwh"] for r in ranks]
    return {
        **ranks[0],
        "wall_s": max(r["wall_s"] for r in ranks),
        "processor_s": round(sum(r["processor_s"] for r in ranks), 2),
        "energy_kwh": None if None in energies else sum(energies),
    }
