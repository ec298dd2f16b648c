"""What a medical mixture and instruction tuning cost a language model of its general language: recipes/me_llama.yaml on small data.

    python -m benchmarks.results.me_llama FOLDER [--quick] [--no-general]

FOLDER has `mts-dialog/` (CSV) and `pubmedqa/` (JSON), as they are published. The general part is Python's own documentation, which
comes with every Python: its paragraphs, each once. `--no-general` leaves the general part out of the continual mixture, whose shares
then are 15 to 1: what Me-LLaMA's mixture is there to prevent. All runs go through the same stages from the same seed.

The table has nats a word piece of held-out texts, with 95% intervals (bootstrap over texts), n, and the change since the stage before
any medical text was read, on the same texts.
"""

from __future__ import annotations

import argparse
import csv
import platform
import shutil
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics

import torch

import polyclinic as pc
from polyclinic.cohort import Cohort
from polyclinic.training import Recipe
from polyclinic.trust.measures.forgetting import perplexities, table

RECIPE = Path(__file__).parents[2] / "recipes/me_llama.yaml"
CHARACTERS = 500
"""Of a general passage, at least."""


def passages() -> list[str]:
    """Python's documentation: paragraphs put together until they are long enough, none of which stands in two passages."""
    found, seen = [], set[str]()
    for text in (topics[name] for name in sorted(topics)):
        passage = ""
        for paragraph in (" ".join(p.split()) for p in text.split("\n\n")):
            if paragraph in seen or len(paragraph) < 80:
                continue
            seen.add(paragraph)
            passage = f"{passage} {paragraph}".strip()
            if len(passage) >= CHARACTERS:
                found.append(passage)
                passage = ""
    return found


def cohort(data: Path, place: Path) -> Cohort:
    """The three parts, ingested."""
    source = place / "texts"
    for name, pattern in (("mts-dialog", "*.csv"), ("pubmedqa", "*.json")):
        (source / name).mkdir(parents=True)
        for file in sorted((data / name).glob(pattern)):
            shutil.copy(file, source / name)
    (source / "general").mkdir()
    with (source / "general/documentation.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["number", "passage"], *enumerate(passages())])
    return pc.ingest(source, into=place / "cohort")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps")
    parser.add_argument("--no-general", action="store_true", help="the continual mixture without its general part")
    asked = parser.parse_args()
    began = time.monotonic()
    told = Recipe.load(RECIPE)
    parts = {name: part.condition for name, part in told.stages[1].mixture.items()}
    changed = [f"stages.{n}.steps={max(1, s.steps // 10)}" for n, s in enumerate(told.stages) if asked.quick]
    recipe = Recipe.load(RECIPE, changed)
    if asked.no_general:
        stages = list(recipe.stages)
        mixture = {name: part for name, part in stages[1].mixture.items() if name != "general"}
        stages[1] = stages[1].model_copy(update={"mixture": mixture})
        recipe = recipe.model_copy(update={"stages": tuple(stages), "name": f"{recipe.name}_no_general"})
    with tempfile.TemporaryDirectory() as folder:
        texts = cohort(asked.folder, Path(folder))
        show = lambda done, total, what: print(f"{done}/{total} {what}", flush=True) if done % 100 == 0 else None
        run = pc.pretrain(recipe, texts, into=Path(folder) / "runs", progress=show)
        print(table(perplexities(run, texts, parts)))
    took = f"{time.process_time():.0f} s of a processor in {time.monotonic() - began:.0f} s"
    print(
        f"{recipe.name}: {torch.get_num_threads()} thread(s), {platform.machine()}, torch {torch.__version__}; {took}"
    )


if __name__ == "__main__":
    main()
