"""MTS-Dialog: which section a conversation belongs to, and the section written from it, on both official test parts.

    python -m benchmarks.results.mts_dialog FOLDER --out made/mts [--seeds 2] [--quick]

FOLDER has the four CSV files (Ben Abacha et al. 2023). Training conversations that are near-duplicates of a test one do not train, and
the validation part is left out. Section: accuracy and macro F1 against the commonest section and TF-IDF. Note: ROUGE of a small decoder
that was instruction-tuned on the training pairs, against the first sentences of the conversation and the note of the nearest training
conversation (cosine of TF-IDF). No pretrained weights can be had here: what is read and written was learned from 1,201 pairs in minutes.
It can be stopped and goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import polyclinic as pc
from polyclinic.adaptation import adapt
from polyclinic.cohort import Cohort, labels_of
from polyclinic.harmonise.text import spelled
from polyclinic.inference import predict
from polyclinic.objectives import InstructObjective, Sampling
from polyclinic.schema import Modality
from polyclinic.tasks import Predictions
from polyclinic.training import Recipe, Run
from polyclinic.trust.comparisons.kept_answers import kept

from .texts import averaged, commonest, majority, rouge, table, texts_of, told, words

SPLIT = {"by": "fold", "leave": ["validation"]}
SENTENCES = 3
"""Of the lead: the conversation's first sentences."""
MOST = 48
"""Word pieces that a note may have."""
SAID = Sampling(once=3)
"""How notes are drawn: the likeliest piece, and no three of them twice; chosen with the number of steps by the validation part."""
METHODS = {"linear probe": "probe", "fine-tuned": {"kind": "full", "lr": 5e-3}}


def sections(cohort: Cohort) -> list[str]:
    """The kinds of section, the commonest first."""
    return [
        name
        for name, _ in Counter(
            str(r.attributes["section_header"]) for r in cohort.records() if r.kind == "dialogue"
        ).most_common()
    ]


def classifying(seed: int, names: Sequence[str], small: bool) -> Recipe:
    """The mean of the words' embeddings: what a thousand conversations can teach of twenty sections."""
    size = {"words": 64 if small else 192, "vocabulary": 512 if small else 4096, "width": 32 if small else 128}
    task = {"kind": "classes", "column": "section_header", "classes": [[n] for n in names]}
    return Recipe.model_validate(
        {
            "name": f"sections-{seed}", "cohort": {"where": "kind = 'dialogue'", "split": SPLIT},
            "encoders": {"text": {"kind": "bert", "depth": 0, "heads": 4} | size},
            "model": {"kind": "two_tower", "width": size["width"], "embedding": 32, "fusion": {"kind": "late"}},
            "tasks": {"section": task, "rare": task | {"balance": 1.0, "prior": "even"}},
            "stages": [{
                "name": "words", "steps": 5 if small else 100, "batch": 16, "lr": 3e-3, "warmup": 10,
                "objective": {"kind": "masked_language"},
            }],
            "precision": "fp32", "seed": seed,
        }
    )  # fmt: skip


def writing(small: bool) -> Recipe:
    """A small LLaMA that learns the language of both texts, then to write the one from the other."""
    size = {
        "words": 64 if small else 192,
        "vocabulary": 512 if small else 2048,
        "width": 32 if small else 96,
        "depth": 1 if small else 2,
    }
    pair = {"instruction": "dialogue", "answer": "section text", "prompt": "{text} Note:"}
    stage = lambda name, steps, objective: {
        "name": name,
        "steps": 5 if small else steps,
        "batch": 16,
        "lr": 2e-3,
        "warmup": 20,
        "most": None,
        "objective": objective,
    }
    return Recipe.model_validate(
        {
            "name": "notes", "cohort": {"where": "kind in ('dialogue', 'section text')", "split": SPLIT},
            "encoders": {"text": {"kind": "llama", "heads": 4, "languages": ["en"]} | size},
            "model": {"kind": "two_tower", "width": size["width"], "embedding": 32, "fusion": {"kind": "late"}},
            "stages": [stage("language", 100, {"kind": "causal_language"}), stage("notes", 250, {"kind": "instruct", "pairs": [pair]})],
            "precision": "fp32",
        }
    )  # fmt: skip


def classified(cohort: Cohort, out: Path, seeds: int, small: bool) -> tuple[dict[str, Predictions], Run]:
    """Arm → the answers about both test parts; ours are the mean of the seeds' probabilities."""
    names, found, first = sections(cohort), dict[str, list[Predictions]](), None
    for seed in range(seeds):
        run = pc.pretrain(classifying(seed, names, small), cohort, into=out / "runs")
        first = first or run
        for task in ("section", "rare"):
            for arm, method in METHODS.items() if task == "section" else list(METHODS.items())[1:]:
                name = f"{task}-{arm.replace(' ', '-')}-{seed}"
                steps = None if arm == "linear probe" else 3 if small else 450
                make = lambda run=run, task=task, method=method, steps=steps, name=name: predict(
                    adapt(run, task, method, cohort=cohort, steps=steps, into=run.path / "adapted" / name), cohort
                )
                words_ = f"ours, {arm}" + (", rare sections as much" if task == "rare" else "")
                found.setdefault(words_, []).append(kept(out / "answers" / f"{name}.json", make))
                print(name, flush=True)
    assert first is not None
    mean = lambda group: Predictions(
        "section", group[0].patients, np.mean([p.outputs for p in group], axis=0), group[0].targets, group[0].mask
    )
    return {arm: mean(group) for arm, group in found.items()}, first


def notes(run: Run, cohort: Cohort, patients: Sequence[str], place: Path) -> list[str]:
    """What the decoder writes of each conversation; kept in a file."""
    if not place.exists():
        model = run.model().eval()
        objective, loader = run.objective(model), run.loader(cohort, tuple(patients))
        assert isinstance(objective, InstructObjective)
        made = dict[str, str]()
        for batch in loader.each(32, patients):
            shown = batch.payloads[Modality.TEXT]
            rows = [n for n, kind in enumerate(shown.kinds or ()) if kind == "dialogue"]
            asked = type(shown)(
                [shown.values[n] for n in rows],
                shown.patient[rows],
                shown.time_h[rows],
                None,
                shown.patients,
                [shown.ids[n] for n in rows],
            )
            for n, numbers in zip(rows, objective.write(model, asked, 0, MOST, SAID), strict=True):
                made[batch.patients[int(shown.patient[n])]] = spelled(numbers.tolist(), run.fingerprint)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(made, indent=1))
    made = json.loads(place.read_text())
    return [made[p] for p in patients]


def lead(text: str) -> str:
    """The first sentences of a conversation, without who says them."""
    said = re.sub(r"\s*(?:Doctor|Patient|Guest_\w+)\s*:\s*", " ", text).strip()
    return " ".join(re.split(r"(?<=[.?!])\s+", said)[:SENTENCES])


def nearest(train: Sequence[str], answers: Sequence[str], test: Sequence[str]) -> list[str]:
    """The note of the training conversation whose TF-IDF is nearest."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(train)
    alike = vectors.transform(test) @ vectors.transform(train).T
    return [answers[int(n)] for n in np.asarray(alike.argmax(axis=1)).ravel()]


def summarised(cohort: Cohort, out: Path, draws: int, small: bool) -> tuple[list[str], list[str]]:
    """The table of ROUGE, and a few of the notes."""
    run = pc.pretrain(writing(small), cohort, into=out / "runs")
    test, train = list(run.split.test), list(run.split.train)
    if small:
        test = test[:20]
    read = {
        kind: {p: texts_of(cohort, kind, p) for p in (tuple(train), tuple(test))}
        for kind in ("dialogue", "section text")
    }
    own, asked = read["section text"][tuple(test)], read["dialogue"][tuple(test)]
    written = {
        "ours, a decoder of minutes": notes(run, cohort, test, out / "answers/notes.json"),
        f"the first {SENTENCES} sentences said": [lead(text) for text in asked],
        "note of the nearest training conversation": nearest(
            read["dialogue"][tuple(train)], read["section text"][tuple(train)], asked
        ),
    }
    lines = ["| | ROUGE-1 | ROUGE-2 | ROUGE-L |", "|---|---|---|---|"]
    for arm, texts in written.items():
        scores = rouge(texts, own)
        lines.append(f"| {arm} | " + " | ".join(told(averaged(scores[:, n], draws)) for n in range(3)) + " |")
    some = [
        f"- asked for “{own[n][:160]}”, ours wrote “{written['ours, a decoder of minutes'][n][:160]}”"
        for n in range(0, len(test), max(1, len(test) // 4))
    ][:4]
    return lines, some


def main() -> None:
    """Run, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", choices=["sections"], help="without the notes, which take longest")
    parser.add_argument("--quick", action="store_true", help="tiny networks; the figures mean nothing")
    asked = parser.parse_args()
    began, place, draws = time.monotonic(), asked.out / "cohort", 200 if asked.quick else 2000
    cohort = Cohort.open(place) if (place / "cohort.json").exists() else pc.ingest(asked.folder, into=place)
    seeds = 1 if asked.quick else asked.seeds
    made, run = classified(cohort, asked.out, seeds, asked.quick)
    names, like = sections(cohort), next(iter(made.values()))
    label = run.recipe.tasks["section"].label("section")
    assert label is not None
    known = labels_of(cohort.records(run.recipe.cohort.where), label)
    truth = [known[p] for p in run.split.train]
    made["commonest section"] = majority(like, truth, len(names))
    read = lambda patients: texts_of(cohort, "dialogue", patients)
    made["TF-IDF + logistic regression"] = kept(
        asked.out / "answers/words.json",
        lambda: words(like, read(run.split.train), truth, read(like.patients), len(names)),
    )
    head = [
        "# MTS-Dialog: sections and notes", "",
        f"Made by `benchmarks/results/mts_dialog.py`: {len(run.split.train)} training conversations (near-duplicates of a test one left "
        f"out; split `{run.split.hash[:12]}`), both official test parts; commonest section {commonest(truth, names)}; ours: the mean "
        f"probabilities of {seeds} seed(s); 95% intervals by bootstrap over the conversations; {platform.machine()}, "
        f"{torch.get_num_threads()} thread; polyclinic {pc.__version__}. As they fell.", "",
    ]  # fmt: skip
    parts = {"Test part 1 (MEDIQA-Chat)": "TestSet-1", "Test part 2 (MEDIQA-Sum)": "TestSet-2"}
    for words_, part in parts.items():
        mine = np.array([part in p for p in like.patients])
        some = {arm: p.where(mine) for arm, p in made.items()}
        head += [
            f"## Section, {words_}, n = {int(mine.sum())}",
            "",
            *table(some, "ours, fine-tuned", "TF-IDF + logistic regression", names, run.split.hash, draws),
        ]
    if asked.only is None:
        rows, some = summarised(cohort, asked.out, draws, asked.quick)
        head += [
            "## Note from the conversation, both test parts",
            "",
            "Steps, and that no three pieces are said twice, were chosen by the validation part, on which nobody trains. What is written "
            "is the language of notes, hardly ever the conversation's content: see the examples.",
            "",
            *rows,
            "",
            "The first of every hundred:",
            "",
            *some,
            "",
        ]
    (asked.out / "mts-dialog.md").write_text("\n".join(head), encoding="utf-8")
    print("\n".join(head), f"{time.monotonic() - began:.0f} s", asked.out / "mts-dialog.md")


if __name__ == "__main__":
    main()
