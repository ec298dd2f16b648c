"""What a step costs where modalities are missing, and what it costs by its tokens.

64 patients with an image of 112 px, a volume of 48³, a report of 48 words and an ECG of 12 leads; each once with all four, and once
with two of them, which ones differing from patient to patient. A ViT or Transformer of width 256 and depth 4 a modality, a fusion of
depth 2 by self-attention, and masked reconstruction of each modality from the patient's others; forward, backward and one step of the
library's own `optimiser`. `peer` is the whole step: what one pays who fills in what is missing.

Below it steps of ever more patients with two or all four modalities, from 1 thousand to 64 thousand tokens a batch. `--picture FILE`
draws them (docs/pictures/cost-of-tokens.svg).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from polyclinic.fusion import Intermediate
from polyclinic.harmonise import Fingerprint
from polyclinic.models import Model, Unified, build_model
from polyclinic.objectives import Masked
from polyclinic.schema import Batch, Modality, Ragged
from polyclinic.tokens import Bert, SignalVit, Vit, Vit3d
from polyclinic.training.ranks import has_bf16

from ._side_by_side import Contender, Step, command, our_step, reading, side_by_side

WIDTH, DEPTH, HEADS, FUSION_DEPTH = 256, 4, 4, 2
SIZE, PATCH, SIDE, BOX, WORDS, VOCABULARY, RATE_HZ, SECONDS, WINDOW = 112, 16, 48, 12, 48, 8192, 100, 10, 250
MODALITIES = (Modality.IMAGE, Modality.VOLUME, Modality.TEXT, Modality.SIGNAL)
PAIRS = ((0, 1), (2, 3), (0, 2), (1, 3), (0, 3), (1, 2))
"""Which two of them the patients have, in turn."""
ROUNDS, FEW_ROUNDS, PATIENTS = 15, 3, 64
SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Thousands of tokens."""


def batch_of(patients: int, half: bool) -> Batch:
    """Patients with all modalities, or with two of them each."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(patients, 1, SIZE, SIZE, generator=draws)
    volumes = torch.randn(patients, 1, SIDE, SIDE, SIDE, generator=draws)
    words = torch.randint(3, VOCABULARY, (patients, WORDS), generator=draws)
    signals = torch.randn(patients, 12, RATE_HZ * SECONDS, generator=draws)
    payloads = {}
    for number, (modality, values) in enumerate(zip(MODALITIES, (images, volumes, words, signals), strict=True)):
        who = torch.tensor([n for n in range(patients) if not half or number in PAIRS[n % len(PAIRS)]])
        given = list(values[who]) if modality is Modality.TEXT else values[who]
        names = [f"{modality} {n}" for n in who.tolist()]
        payloads[modality] = Ragged(given, who, torch.zeros(len(who)), None, patients, names)
    return Batch(payloads, {}, [str(n) for n in range(patients)])


def model_of(depth: int) -> Model:
    sizes: dict[str, Any] = {"width": WIDTH, "depth": depth, "heads": HEADS}
    encoders = {
        Modality.IMAGE: Vit(size=SIZE, patch=PATCH, **sizes),
        Modality.VOLUME: Vit3d(size=(SIDE, SIDE, SIDE), patch=(BOX, BOX, BOX), **sizes),
        Modality.TEXT: Bert(words=WORDS, vocabulary=VOCABULARY, **sizes),
        Modality.SIGNAL: SignalVit(rate_hz=RATE_HZ, seconds=SECONDS, window=WINDOW, **sizes),
    }
    fusion = Intermediate(style="self_attention", depth=FUSION_DEPTH, heads=HEADS)
    return build_model(Unified(width=WIDTH, fusion=fusion), encoders, reading(VOCABULARY), seed=0)


def step_of(patients: int, depth: int, half: bool, bf16: bool) -> Step:
    model = model_of(depth)
    return our_step(model, Masked(context="patient").build(model, {}), batch_of(patients, half), bf16)


def tokens_of(patients: int, half: bool) -> int:
    with torch.no_grad():
        return sum(len(t.patient) for t in model_of(1).encode(batch_of(patients, half)).values())


def sameness() -> str:
    """What the rest of a patient's modalities say does not depend on whether the model could read the missing ones."""
    model = model_of(1).eval()
    whole = batch_of(6, half=True)
    fewer = {m: ragged for m, ragged in whole.payloads.items() if m in MODALITIES[:2]}
    alone = build_model(
        Unified(width=WIDTH, fusion=Intermediate(style="self_attention", depth=FUSION_DEPTH, heads=HEADS)),
        {Modality.IMAGE: Vit(size=SIZE, patch=PATCH, width=WIDTH, depth=1, heads=HEADS),
         Modality.VOLUME: Vit3d(size=(SIDE, SIDE, SIDE), patch=(BOX, BOX, BOX), width=WIDTH, depth=1, heads=HEADS)},
        Fingerprint(), seed=0,
    ).eval()  # fmt: skip
    with torch.no_grad():
        off = (model(Batch(fewer, {}, whole.patients)).pooled - alone(Batch(fewer, {}, whole.patients)).pooled).abs()
    return (
        f"without words and signals the model's vectors are within {float(off.max()):.0e} of those of a model that never had them. "
        "The two steps do not have the same losses: what is missing is not asked for"
    )


def by_tokens(sizes: Sequence[int], depth: int, rounds: int, bf16: bool) -> list[tuple[int, float, float]]:
    """Of each size: how many tokens all four modalities are, and ms a step with all and with two of the four."""
    per, out = tokens_of(6, False) / 6, []
    for size in sizes:
        patients = max(1, round(size * 1024 / per))
        both = [
            Contender("half", lambda n=patients: step_of(n, depth, True, bf16), bf16),
            Contender("whole", lambda n=patients: step_of(n, depth, False, bf16), bf16),
        ]
        found = side_by_side(both, 64, WIDTH, rounds)
        out.append((round(patients * per), found.median(1) * 1e3, found.median(0) * 1e3))
    return out


def draw(path: Path, rows: Sequence[tuple[int, float, float]], precision: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    tokens = [n for n, _, _ in rows]
    axes.loglog(tokens, [whole / 1e3 for _, whole, _ in rows], "o-", label="all four modalities")
    axes.loglog(tokens, [half / 1e3 for _, _, half in rows], "s-", label="the same patients, two of the four")
    axes.loglog(tokens, [rows[-1][1] / 1e3 * n / tokens[-1] for n in tokens], "k:", label="in proportion to tokens")
    axes.set_xlabel("tokens a batch, where nothing is missing")
    axes.set_ylabel(f"seconds a step ({precision})")
    axes.grid(True, which="both", alpha=0.2)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--picture", type=Path, help="draw the cost by tokens into this file")
    asked = parser.parse_args()
    depth, patients, rounds, few, sizes = (
        (1, 6, 2, 2, (1, 2)) if asked.quick else (DEPTH, PATIENTS, ROUNDS, FEW_ROUNDS, SIZES)
    )
    bf16 = has_bf16()
    precision = "bf16" if bf16 else "fp32"
    print(
        f"{patients} patients, {tokens_of(patients, False)} tokens of four modalities, {tokens_of(patients, True)} of two each, "
        f"{torch.get_num_threads()} threads"
    )
    both = [
        Contender("two of four modalities", lambda: step_of(patients, depth, True, bf16), bf16),
        Contender("all four", lambda: step_of(patients, depth, False, bf16), bf16),
    ]
    found = side_by_side(both, tokens_of(patients, False), WIDTH, rounds)
    found.table(patients, "patients", 0)
    cost = 1 / found.over(1)
    print(f"half of the modalities absent costs {cost:.2f} of the whole step")
    print(f"\n{'tokens':>8}{'ms a step':>12}{'ms, half absent':>18}{'µs a token':>12}")
    rows = by_tokens(sizes, depth, few, bf16)
    for tokens, whole, half in rows:
        print(f"{tokens:8}{whole:12.0f}{half:18.0f}{whole * 1e3 / tokens:12.1f}")
    if asked.picture is not None:
        draw(asked.picture, rows, precision)
    found.report("missing_modalities", patients, "patients", 0, sameness(), cost=cost)


if __name__ == "__main__":
    main()
