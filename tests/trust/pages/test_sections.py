from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from polyclinic.schema import Figure, Rejected
from polyclinic.trust.comparisons.comparison import Comparison, Row, Skipped, verdict
from polyclinic.trust.evidence import Evidence
from polyclinic.trust.measures.calibration import Bin, Calibration
from polyclinic.trust.measures.curves import Traced
from polyclinic.trust.measures.prognosis import Reliability
from polyclinic.trust.measures.retrieval import Candidate, RetrievalExample
from polyclinic.trust.modalities.contributions import Contribution, Contributions, Together
from polyclinic.trust.modalities.subsets import Subset
from polyclinic.trust.pages.embeddings import EmbeddingMap
from polyclinic.trust.pages.inputs import Curve, ReportInputs
from polyclinic.trust.pages.overlays import Overlay
from polyclinic.trust.pages.placed import Mark, Placed
from polyclinic.trust.pages.sections import whole

SPLIT = "8a6e0aef05712c40b6ddabe5464e0862"
EVERY = ("image", "text", "table")
VOID = {"meta", "img", "br", "input", "link", "hr"}
NUMBER = re.compile(r"\d+(?:[.,\u202f]\d+)*")
GIVEN = "the column 'discharge code' alone tells: 0.98 of the pairs are ordered right (0.71 to 1.00, of 31 looks together; n = 26)"
EXEMPT = {"verbatim", "mono", "tick", "axis"}
"""Words of the hospital's files, hashes, and the ticks of an axis."""


def figure(name: str, value: float, low: float, high: float, n: int = 17, note: str = "95% interval, BCa") -> Figure:
    return Figure(name, value, low, high, n, SPLIT, note)


def row(
    arm: str,
    inputs: tuple[str, ...],
    labels: int,
    value: float,
    *,
    task: str = "finding",
    metric: str = "auroc",
    struck: bool = False,
    gain: tuple[float, float, float] | None = None,
    note: str = "",
) -> Row:
    paired = figure(f"{metric}_difference", *gain) if gain else None
    shown = figure(metric, value, value - 0.11, value + 0.07)
    return Row(task, arm, inputs, labels, struck, shown, paired, paired, 1.25, note)


def rows() -> tuple[Row, ...]:
    helped, harmed, unclear = (0.21, 0.08, 0.34), (-0.19, -0.3, -0.06), (0.04, -0.1, 0.19)
    made = [
        row("lora", EVERY, 26, 0.81, gain=helped), row("scratch", EVERY, 26, 0.6), row("baseline", EVERY, 26, 0.77),
        row("lora", EVERY, 8, 0.66, gain=unclear), row("scratch", EVERY, 8, 0.62),
        row("lora", ("image",), 26, 0.58, gain=harmed), row("scratch", ("image",), 26, 0.77),
        row("lora", EVERY, 26, 0.63, struck=True, gain=helped), row("scratch", EVERY, 26, 0.42, struck=True),
    ]  # fmt: skip
    seen = "pretraining already saw 4 of these labels"
    made.append(row("probe", ("volume",), 12, 0.71, task="hippocampus", metric="dice", gain=unclear, note=seen))
    return tuple(made)


def evidence() -> tuple[Evidence, ...]:
    nan = float("nan")
    rare = "95% interval, BCa; too narrow at 3 patients in the rarer class"
    bins = (Bin(0.23, 0.31, 0.12, 0.59, 9), Bin(0.78, 0.64, 0.33, 0.86, 8))
    missing = figure("slope", float("nan"), float("nan"), float("nan"), 17, "not estimated: 3 patients, 5 wanted")
    measured = Calibration(bins, (figure("ece", 0.15, 0.07, 0.29), missing), 17, "With 3 patients an impression.")
    nothing = figure(
        "auroc", float("nan"), float("nan"), float("nan"), 1, "not defined: all 1 patients are of one class"
    )
    subsets = (
        Subset(("image",), figure("auroc", 0.57, 0.31, 0.79, 16), 16),
        Subset(("text",), nothing, 1),
        Subset(EVERY, figure("auroc", 0.83, 0.61, 0.95, 17), 1),
    )
    note = "95% interval, percentile bootstrap over patients; too narrow at 3 patients of the rarest answer"
    added = (
        Contribution(
            "image",
            16,
            figure("shapley", 0.21, 0.04, 0.37, note=note),
            figure("auroc_lost", 0.26, 0.07, 0.44, 15, note),
        ),
        Contribution("text", 1, figure("shapley", 0.12, -0.03, 0.29, note=note), nothing),
    )
    pair = Together(("image", "text"), 1, figure("interaction", -0.06, -0.17, 0.09, note=note))
    adds = Contributions("auroc", 17, 0.5, 0.83, 2, 3, added, (pair,))
    few = "95% interval, BCa; 3 patients are few; chance 0.33"
    return (
        Evidence("finding-lora-26-0", "finding", "classification", "lora", EVERY, 26, SPLIT, "abc",
                 (figure("auroc", 0.83, 0.61, 0.95, 17, rare), figure("brier", 0.19, 0.11, 0.28)), measured, subsets, contributions=adds,
                 giveaways=(GIVEN,)),
        Evidence("demo", "xray_to_note", "retrieval", "pretrained", ("image", "text"), 0, SPLIT, "abc",
                 (figure("recall_at_1", 1 / 3, 0.01, 0.9, 3, few), figure("median_rank_back", 2.0, 1.0, 3.0, 3, few))),
        Evidence("death-probe-60-0", "death", "survival", "probe", ("table",), 60, SPLIT, "abc",
                 (figure("concordance", 0.66, 0.52, 0.77), figure("auroc_at_36_weeks", 0.68, 0.49, 0.81)),
                 risks=(Reliability(36.0, "weeks", (Bin(0.14, 0.2, 0.06, 0.47, 10), Bin(0.53, 0.41, 0.2, 0.7, 7))),)),
        Evidence("stage-probe-60-0", "stage", "grade", "probe", ("table",), 60, SPLIT, "abc",
                 (figure("quadratic_kappa", 0.43, 0.22, 0.63),),
                 calibrations=(replace(measured, name="II"), replace(measured, name="III"))),
        Evidence("kind-probe-58-0", "kind", "classes", "probe", ("table",), 58, SPLIT, "abc",
                 (figure("accuracy", 0.62, 0.48, 0.74),),
                 calibrations=(
                    Calibration(bins, (figure("top_label_ece", 0.13, 0.07, 0.22), figure("multiclass_brier", 0.54, 0.46, 0.61)), 17, "x"),
                    replace(measured, name="benign"),
                 )),
        Evidence("nodules-lora-44-0", "nodules", "detection", "lora", ("image",), 44, SPLIT, "abc",
                 (figure("froc", 0.72, 0.57, 0.83), figure("sensitivity_at_0.5", 0.69, 0.51, 0.81), figure("map_50", 0.45, 0.32, 0.59)),
                 curves=(
                    Traced("froc", "", (0.125, 1.0, 8.0), (0.2, 0.5, 0.9), (0.1, 0.4, 0.8), (0.3, 0.6, 1.0), 17, "its middle lies in it"),
                    Traced("precision_recall", "nodule", (0.0, 0.5, 1.0), (1.0, 0.5, 0.0), (nan,) * 3, (nan,) * 3, 17, "an overlap of 0.5"),
                 )),
    )  # fmt: skip


def complete(word: str = "") -> ReportInputs:
    """All parts of a report; `word` is put wherever a word of the hospital's files can come in."""
    random = np.random.default_rng(0)
    modalities = ("image", "text", "image", "text")
    mask = np.zeros((6, 5), int)
    mask[2:4, 1:4] = 1
    candidate = Candidate("CXR-7" + word, 0.27, True, "Fever for 3 days " + word)
    return ReportInputs(
        title="What it can and cannot do" + word,
        run="demo" + word,
        split=SPLIT,
        cohort={
            "patients": 1728, "records": 3910, "kind": {"CR chest" + word: 85},
            "patients_by_modality": {"image": 1046, "text": 82}, "missingness": {"image": 1646, "image+text": 46, "text": 36},
            "sex": {"F": 812, "M": 903, "X" + word: 8, "unknown": 5},
            "age": {"n": 1717, "q05": 27.0, "median": 58.0, "q95": 84.0},
        },
        sides=(1037, 691),
        sites={"Ward 7" + word: 1300, "Ward 9": 428},
        rejected=[Rejected("broken/A9.dcm" + word, "cut short" + word, "a whole file" + word, "send it again" + word)],
        comparison=Comparison(rows(), (Skipped("icu" + word, "8 labels" + word, "no time" + word),), SPLIT, 12.0),
        evidence=evidence(),
        curves=(Curve("loss", np.arange(50.0), np.linspace(4.2, 1.3, 50), ((0.0, "one"), (25.0, "two" + word))),),
        maps=(
            EmbeddingMap(random.normal(size=(4, 2)), ("a", "a", "b", "b"), modalities,
                         ("COVID-19" + word, "COVID-19" + word, "unlabelled", "unlabelled"), "principal components", 0.62, SPLIT, 9),
        ),
        retrieval=(RetrievalExample("image", "text", "CXR-7" + word, 2, 3, (candidate,), image=random.uniform(size=(9, 8))),),
        overlays=(
            Overlay("hippocampus_001" + word, random.uniform(size=(6, 5)), mask, mask, ("anterior" + word,), (0.87,), (14, 35), 1.2, SPLIT,
                    ("R", "L", "A", "P")),
        ),
        placed=(
            Placed("nodules", "detection", "CXR-7" + word, "best", 21, random.uniform(size=(6, 5)), ("nodule" + word,),
                   (Mark(1, (1.0, 1.0), (3.0, 4.0), 0.64), Mark(1, (0.0, 0.0), (1.0, 1.0), 0.37, alarm=True)),
                   (Mark(1, (1.0, 1.0), (3.5, 4.0)),), 1, 0, 1, float("nan"), "", (1, 1), 1.2, SPLIT),
            Placed("tips", "keypoints", "hippocampus_001" + word, "best", 22, random.uniform(size=(6, 5)), ("top" + word, "end"),
                   (Mark(1, (1.0, 1.0), (1.0, 1.0), 0.92), Mark(2, (2.0, 3.0), (2.0, 3.0), 0.43, here=False)),
                   (Mark(1, (1.0, 2.0), (1.0, 2.0)),), 0, 0, 0, 6.3, "mm", (14, 35), 1.2, SPLIT, ("R", "L", "A", "P")),
        ),
        words={"image": "X-ray" + word, "text": "note" + word, "table": "table", "volume": "MR volume"},
        recipe="name: demo\nsteps: 220 " + word,
        packages={"torch": "2.13.0" + word},
        machine="2 cores" + word,
        seconds={"pretrain" + word: 61.5},
        licences=("CC BY 4.0 " + word,),
        made="2030-01-31" + word,
        weights="c4cbd683",
        commit="2e7aa0c8",
        parameters=4619776,
        tasks={"finding": "Is it COVID-19?" + word, "hippocampus": "Where is it?" + word},
    )  # fmt: skip


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parent: Element | None
    children: list[Element | str] = field(default_factory=list)

    def every(self) -> Iterator[Element]:
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.every()

    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text() for c in self.children)

    def up(self) -> Iterator[Element]:
        here: Element | None = self
        while here is not None:
            yield here
            here = here.parent

    def words(self) -> Iterator[tuple[Element, str]]:
        for child in self.children:
            if isinstance(child, str):
                yield self, child
            else:
                yield from child.words()


class Tree(HTMLParser):
    """The page as a browser takes it apart."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.root = self.here = Element("root", {}, None)
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = Element(tag, {k: v or "" for k, v in attrs}, self.here)
        self.here.children.append(made)
        if tag not in VOID:
            self.here = made

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.here.children.append(Element(tag, {k: v or "" for k, v in attrs}, self.here))

    def handle_endtag(self, tag: str) -> None:
        assert self.here.tag == tag, f"<{self.here.tag}> closed by </{tag}>"
        assert self.here.parent is not None
        self.here = self.here.parent

    def handle_data(self, data: str) -> None:
        self.here.children.append(data)


def opened(inputs: ReportInputs) -> tuple[Element, dict[str, Any]]:
    page, summary = whole(inputs)
    tree = Tree(page)
    assert tree.here is tree.root
    return tree.root, json.loads(summary.json())


def section(root: Element, name: str) -> Element:
    return next(e for e in root.every() if e.attributes.get("id") == name)


def names(root: Element) -> list[str]:
    return [e.attributes["id"] for e in root.every() if e.tag == "section"]


def numbers(words: str) -> set[str]:
    return set(NUMBER.findall(words))


def test_every_number_with_a_key_is_the_one_of_the_summary() -> None:
    root, summary = opened(complete())
    keyed = [e for e in root.every() if "data-key" in e.attributes]
    assert len(keyed) > 100
    for element in keyed:
        key = element.attributes["data-key"]
        entry = summary["figures"].get(key) or summary["counts"][key]
        held = {entry["text"], str(entry.get("n")), entry.get("note", "").removeprefix("95% interval, ")}
        assert element.text() in held or element.text() in entry.get("note", ""), (key, element.text())
        if element.tag == "data" and element.text() == entry["text"] and entry["value"] is not None:
            assert float(element.attributes["value"]) == entry["value"]


def test_no_number_is_shown_that_is_not_in_the_summary() -> None:
    root, summary = opened(complete())
    body = next(e for e in root.every() if e.tag == "main")
    for element, words in body.words():
        classes = {c for e in element.up() for c in e.attributes.get("class", "").split()}
        tags = {e.tag for e in element.up()}
        if classes & EXEMPT or tags & {"pre", "h1", "title"} or any("data-key" in e.attributes for e in element.up()):
            continue
        assert not numbers(words.replace("95% interval", "")), words
    known = set().union(*(numbers(e["text"]) for table in ("figures", "counts") for e in summary[table].values()))
    for element in body.every():
        said = element.attributes.get("alt", "") + element.attributes.get("aria-label", "")
        said = re.sub(r"CXR-7|hippocampus_001", "", said)
        assert numbers(said) <= known, said


def test_every_figure_of_the_summary_has_n_an_interval_and_the_split() -> None:
    _, summary = opened(complete())
    assert summary["split"] == SPLIT
    assert summary["figures"]
    for key, entry in summary["figures"].items():
        assert entry["split"] == SPLIT, key
        assert entry["n"] > 0, key
        if entry["value"] is None:
            assert entry["note"].startswith("not "), key
        else:
            assert entry["low"] <= entry["value"] <= entry["high"], key
    shown = {e["value"] for e in summary["figures"].values()}
    expected = {f.value for e in evidence() for f in e.figures} | {r.figure.value for r in rows()}
    assert expected <= shown


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&lt;b&gt;"


def test_words_of_files_stay_words() -> None:
    plain, _ = opened(complete())
    hostile, _ = opened(complete(HOSTILE))
    census = lambda root: sorted(e.tag for e in root.every())
    assert census(hostile) == census(plain)
    assert not [e for e in hostile.every() if e.tag == "script" or any(k.startswith("on") for k in e.attributes)]
    text = hostile.text()
    for words in (
        "CXR-7",
        "anterior",
        "broken/A9.dcm",
        "cut short",
        "Ward 7",
        "CC BY 4.0 ",
        "Is it COVID-19?",
        "Fever for 3 days ",
        "steps: 220 ",
    ):
        assert words + HOSTILE in text, words
    keys = {e.attributes["data-key"] for e in hostile.every() if "data-key" in e.attributes}
    assert "cohort.site.Ward 7" + HOSTILE in keys


def test_it_runs_nothing_and_fetches_nothing() -> None:
    page, _ = whole(complete())
    root = Tree(page).root
    assert not [e for e in root.every() if e.tag in ("script", "link", "iframe", "object", "base", "form")]
    addresses = [
        v for e in root.every() for k, v in e.attributes.items() if k in ("src", "href", "xlink:href", "srcset")
    ]
    assert addresses
    assert all(a.startswith(("data:image/png;base64,", "#")) for a in addresses)
    policy = next(e for e in root.every() if e.attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.attributes["content"].startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    style = next(e for e in root.every() if e.tag == "style").text()
    assert "url(" not in style
    assert "@import" not in style


def test_it_can_be_read_aloud() -> None:
    root, _ = opened(complete())
    assert next(e for e in root.every() if e.tag == "html").attributes["lang"] == "en"
    levels = [int(e.tag[1]) for e in root.every() if re.fullmatch(r"h[1-6]", e.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    for e in root.every():
        if e.tag == "img":
            assert e.attributes["alt"]
        if e.tag == "svg" and not any(p.tag == "svg" for p in e.up() if p is not e):
            assert e.attributes.get("aria-hidden") == "true" or (
                e.attributes["role"] == "img" and e.attributes["aria-label"]
            )
        if e.tag == "table":
            assert any(c.tag == "caption" and c.text() for c in e.every())
    ids = [e.attributes["id"] for e in root.every() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    assert {e.attributes["href"][1:] for e in root.every() if e.tag == "a"} <= set(ids)


def test_the_verdict_comes_first_and_says_what_the_comparison_says() -> None:
    inputs = complete()
    root, _ = opened(inputs)
    assert names(root)[0] == "verdict"
    assert inputs.comparison is not None
    said = section(root, "verdict").text()
    for against in ("scratch", "baseline"):
        assert verdict(inputs.comparison, against).sentence in said
    assert "better in 1, worse in 1 of 4 comparisons" in said


@pytest.mark.parametrize(
    ("gains", "count"),
    [
        ([(0.2, 0.1, 0.3)] * 2, {"better": 2, "worse": 0, "total": 2}),
        ([(0.2, 0.1, 0.3), (0.0, -0.1, 0.1)], {"better": 1, "worse": 0, "total": 2}),
        ([(-0.2, -0.3, -0.1), (0.0, -0.1, 0.1)], {"better": 0, "worse": 1, "total": 2}),
        ([(0.2, 0.1, 0.3), (-0.2, -0.3, -0.1)], {"better": 1, "worse": 1, "total": 2}),
        ([(0.0, -0.1, 0.1)] * 3, {"better": 0, "worse": 0, "total": 3}),
        ([(0.2, 0.1, 0.3), (0.1, float("nan"), float("nan"))], {"better": 1, "total": 2, "unknown": 1}),
    ],
)
def test_each_number_of_the_verdict_is_the_count_it_names(
    gains: list[tuple[float, float, float]], count: dict[str, int]
) -> None:
    made = tuple(row("lora", EVERY, 10 + n, 0.8, gain=gain) for n, gain in enumerate(gains))
    root, summary = opened(replace(complete(), comparison=Comparison(made, (), SPLIT, 1.0)))
    for name, n in count.items():
        assert summary["counts"][f"verdict.scratch.{name}"]["value"] == n
    sentence = next(e for e in section(root, "verdict").every() if e.tag == "li")
    keys = [e.attributes["data-key"] for e in sentence.every() if "data-key" in e.attributes]
    assert numbers(sentence.text()) == {str(summary["counts"][k]["value"]) for k in keys}
    order = ["better", "worse", "total", "unknown"]
    places = [order.index(k.rsplit(".", 1)[1]) for k in keys]
    assert places == sorted(places)


def test_that_few_patients_bear_what_a_modality_adds_is_said() -> None:
    root, _ = opened(complete())
    assert "The intervals are too narrow at 3 patients of the rarest answer." in section(root, "adds").text()


def test_the_x_ray_alone_stands_beside_everything() -> None:
    root, summary = opened(complete())
    part = section(root, "alone")
    assert "often state the diagnosis" in part.text()
    lines = [
        e
        for e in part.every()
        if e.tag == "tr" and any(c.tag == "th" and c.text() == "pretrained, LoRA" for c in e.every())
    ]
    keys = [e.attributes["data-key"] for e in lines[0].every() if e.tag == "data"]
    alone, every, struck = (
        f"comparison.finding.{k}.lora" for k in ("image.26", "image+text+table.26", "image+text+table.words_struck.26")
    )
    assert keys == [alone, alone, every, every, struck, struck]
    assert [summary["figures"][k]["value"] for k in (alone, every, struck)] == [0.58, 0.81, 0.63]


def test_where_hardly_a_patient_has_a_note_it_says_so() -> None:
    root, _ = opened(complete())
    assert "Only 1 of the 17 labelled test patients have a note at all" in section(root, "alone").text()


def test_notes_that_do_not_tell_are_not_accused() -> None:
    root, _ = opened(replace(complete(), notes_tell=False))
    part = section(root, "alone").text()
    assert "0.58" in part
    assert "diagnosis" not in part


def test_without_a_comparison_the_x_ray_alone_is_that_of_the_evidence() -> None:
    root, _ = opened(replace(complete(), comparison=None))
    keys = {e.attributes.get("data-key") for e in section(root, "alone").every()}
    assert {"evidence.finding-lora-26-0.only.image", "evidence.finding-lora-26-0.only.image+text+table"} <= keys


def test_struck_notes_are_not_in_the_forest() -> None:
    root, _ = opened(complete())
    keys = [e.attributes.get("data-key", "") for e in section(root, "comparison").every()]
    assert not [k for k in keys if "words_struck" in k]
    assert "comparison.finding.image+text+table.8.lora.over_scratch" in keys


def test_few_pairs_are_called_few_beside_what_chance_gives() -> None:
    root, summary = opened(complete())
    part = section(root, "retrieval").text()
    assert "Only 3 test patients have both" in part
    assert "guessing gives 0.33" in part
    assert summary["counts"]["evidence.demo.recall_at_1.chance"]["value"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("gone", "left_out", "said"),
    [
        ({"comparison": None}, "comparison", "The comparison with the same network from scratch"),
        ({"retrieval": ()}, "retrieval", "Examples of retrieval"),
        ({"overlays": ()}, "overlays", "Segmentation"),
        ({"maps": ()}, "map", "The map of what was learned"),
        ({"curves": ()}, "curves", "Training curves"),
        ({"cohort": {}}, "population", "Who was studied"),
        ({"evidence": evidence()[1:2]}, "calibration", "Calibration"),
        ({"evidence": evidence()[1:]}, "subsets", "when a kind of record is missing"),
        ({"evidence": evidence()[:1]}, "-", "Figures of retrieval"),
        ({"evidence": ()}, "figures", "Figures of an adapted model"),
        ({"evidence": ()}, "key-figures", "Figures of an adapted model"),
    ],
)
def test_a_missing_part_is_left_out_and_named(gone: dict[str, Any], left_out: str, said: str) -> None:
    before, _ = opened(complete())
    assert "missing" not in names(before)
    root, _ = opened(replace(complete(), **gone))
    assert left_out not in names(root)
    assert said in section(root, "missing").text()


def test_risks_stand_beside_what_was_observed() -> None:
    root, summary = opened(complete())
    part = section(root, "calibration").text()
    assert "risk by 36 weeks" in part
    assert "0.41 (0.20–0.70)" in part
    assert "AUROC of the event by 36 weeks (time-dependent)" in section(root, "figures").text()
    assert summary["figures"]["evidence.death-probe-60-0.risk_at_36_weeks.group_2"]["n"] == 7


def test_each_event_and_landmark_has_risks_of_its_own() -> None:
    bins = (Bin(0.14, 0.2, 0.06, 0.47, 10), Bin(0.53, 0.41, 0.2, 0.7, 7))
    curves = [Reliability(12.0, "months", bins, event, at) for event in ("disease", "a<b") for at in (0.0, 6.0)]
    named = ("macro_concordance", "disease: brier_at_12_months", "from 6 months, disease: concordance")
    told = Evidence("end-probe-60-0", "end", "hazards", "probe", ("table",), 60, SPLIT, "abc",
                    tuple(figure(n, 0.6, 0.5, 0.7) for n in named), risks=tuple(curves))  # fmt: skip
    root, summary = opened(replace(complete(), evidence=(told,)))
    part = section(root, "calibration").text()
    assert "risk of disease by 12 months from 6 months on" in part
    assert "risk of a<b by 12 months from 0 months on" in part
    assert "Aalen–Johansen's estimate" in part
    figures = section(root, "figures").text()
    assert "Brier score of the risk by 12 months, disease" in figures
    assert "Concordance (C-index), from 6 months, disease" in figures
    assert summary["figures"]["evidence.end-probe-60-0.risk_of_disease_at_12_months_from_6.group_2"]["n"] == 7


def test_a_report_of_nothing_still_says_what_it_must() -> None:
    root, summary = opened(ReportInputs("Nothing yet", "empty", SPLIT, {}, (0, 0)))
    assert names(root) == ["verdict", "missing", "not-for", "made"]
    assert "not known" in section(root, "verdict").text()
    assert "Not a medical device" in section(root, "not-for").text()
    assert summary["figures"] == {}


def test_what_was_not_run_and_what_was_set_aside_is_told_with_its_reason() -> None:
    root, _ = opened(complete())
    assert "no time" in section(root, "comparison").text()
    for words in ("broken/A9.dcm", "cut short", "a whole file", "send it again"):
        assert words in section(root, "set-aside").text()


def test_how_it_was_made_names_split_weights_commit_and_recipe() -> None:
    root, summary = opened(complete())
    made = section(root, "made").text()
    for words in (SPLIT, "c4cbd683", "2e7aa0c8", "2.13.0", "steps: 220", "CC BY 4.0", "61.5", "2 cores"):
        assert words in made, words
    assert summary["counts"]["made.parameters"]["value"] == 4619776


def test_two_runs_of_one_name_keep_their_own_figures() -> None:
    first = evidence()[0]
    second = replace(first, figures=(figure("auroc", 0.44, 0.2, 0.6),), subsets=(), calibration=None)
    _, summary = opened(replace(complete(), evidence=(first, second)))
    assert summary["figures"]["evidence.finding-lora-26-0.auroc"]["value"] == 0.83
    assert summary["figures"]["evidence.finding-lora-26-0-2.auroc"]["value"] == 0.44


def test_a_row_that_was_measured_twice_counts_once() -> None:
    once = complete()
    assert once.comparison is not None
    again = tuple(replace(r, seconds=9.0) for r in once.comparison.rows[:3])
    twice = replace(once, comparison=replace(once.comparison, rows=once.comparison.rows + again))
    assert opened(twice)[1] == opened(once)[1]


def test_the_same_inputs_make_the_same_page() -> None:
    assert whole(complete())[0] == whole(complete())[0]
