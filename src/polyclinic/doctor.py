"""What is installed, what this machine can do, and what to change about it."""

from __future__ import annotations

import os
import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "sve",
)
VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "KMP_BLOCKTIME")
FOR_DEVELOPERS = {"dev", "docs"}


def examine() -> dict[str, Any]:
    """Packages, extras, processor, threads, memory, disk, browser, and advice; all of it plain data."""
    core, extras = packages()
    found: dict[str, Any] = {
        "polyclinic": version("polyclinic"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "core": core,
        "extras": extras,
        "cpu": processor(),
        "torch": torch_settings(),
        "environment": {name: os.environ.get(name) for name in VARIABLES},
        "memory": memory(),
        "disk": disk(Path.cwd()),
        "chromium": next(
            (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
        ),
    }
    return found | {"advice": advice(found)}


def installed(name: str) -> str | None:
    """A package's version; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def packages() -> tuple[dict[str, str | None], dict[str, dict[str, Any]]]:
    """The core packages with their versions; each extra with what it has and lacks. Read from polyclinic's own metadata."""
    core: dict[str, str | None] = {}
    members: dict[str, list[str]] = {name: [] for name in metadata("polyclinic").get_all("Provides-Extra") or []}
    for line in requires("polyclinic") or []:
        found = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", line)
        if found is None:
            continue
        name = found[0]
        if extra is None:
            core[name] = installed(name)
        elif name.lower() == "polyclinic":  # an extra made of other extras
            members[extra[1]] += [f"[{part.strip()}]" for part in re.findall(r"\[([^\]]+)\]", line)[0].split(",")]
        else:
            members[extra[1]].append(name)
    whole = {name: _flat(name, members) for name in members if name not in FOR_DEVELOPERS}
    return core, {
        name: {
            "packages": {p: installed(p) for p in parts},
            "missing": [p for p in parts if installed(p) is None],
            "install": f"pip install 'polyclinic[{name}]'",
        }
        for name, parts in whole.items()
    }


def _flat(extra: str, members: dict[str, list[str]]) -> list[str]:
    found: list[str] = []
    for name in members.get(extra, []):
        found += _flat(name[1:-1], members) if name.startswith("[") else [name]
    return list(dict.fromkeys(found))


def processor() -> dict[str, Any]:
    """The processor's model, cores and the instruction sets that decide how fast matrices multiply."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    have = set(flags[1].split()) if flags else set()
    return {
        "model": model[1] if model else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "usable": usable_cores(),
        "instructions": [name for name in INSTRUCTIONS if name in have],
    }


def usable_cores() -> int:
    """The cores that this process may use: its affinity, and a container's quota (cgroup v2 cpu.max)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        limit, _, period = quota.read_text().strip().partition(" ")
        if limit != "max":
            count = min(count, max(1, int(limit) // int(period)))
    return count


def torch_settings() -> dict[str, Any]:
    """Threads and number formats of torch here."""
    import torch

    from .training.ranks import has_bf16

    return {
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "bf16": has_bf16(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "cuda": torch.cuda.is_available(),
    }


def memory() -> dict[str, float | None]:
    """GiB in all and free, of the machine or of the container, whichever is less."""
    from .training.memory import machine

    total, free = machine()
    gib = lambda size: round(size / 2**30, 1) if size is not None else None
    return {"total_gib": gib(total), "available_gib": gib(free)}


def disk(place: Path) -> dict[str, Any]:
    """GiB in all and free where `place` lies."""
    usage = shutil.disk_usage(place)
    return {"path": str(place), "total_gib": round(usage.total / 2**30, 1), "free_gib": round(usage.free / 2**30, 1)}


def advice(found: dict[str, Any]) -> list[str]:
    """What to change, the most useful first."""
    said = [
        f"{name} is missing from the core: pip install {name}" for name, known in found["core"].items() if known is None
    ]
    if found["extras"].get("demo", {}).get("missing"):
        said.append("`polyclinic demo` needs more: " + found["extras"]["demo"]["install"])
    usable, threads = found["cpu"]["usable"], found["torch"]["threads"]
    if threads > usable:
        said.append(
            f"torch uses {threads} threads on {usable} usable cores; they stall each other: export OMP_NUM_THREADS={usable}"
        )
    if threads > 1 and (found["environment"]["OMP_WAIT_POLICY"] or "").upper() != "PASSIVE":
        said.append("on a shared machine spinning threads slow each other down: export OMP_WAIT_POLICY=PASSIVE")
    free = found["memory"]["available_gib"]
    if free is not None and free < 4:
        said.append(f"{free} GiB of memory are free; the demonstration wants 4")
    if found["disk"]["free_gib"] < 2:
        said.append(f"{found['disk']['free_gib']} GiB of disk are free here; the demonstration wants 2")
    if found["chromium"] is None:
        said.append("chromium is not installed: the browser tests will be skipped (apt-get install chromium)")
    return said
