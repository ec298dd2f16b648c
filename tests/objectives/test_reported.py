"""What is shown to who writes a report: nothing of its time but the study, nothing later, and of what was earlier what is asked for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from polyclinic.fusion import Early, Late
from polyclinic.models import Model, TwoTower, Unified, build_model
from polyclinic.objectives import Caption, CaptionObjective, Sampling
from polyclinic.objectives.reported import Reports, Window, due, known, of_the_study, written
from polyclinic.records.events import KIND
from polyclinic.schema import Batch, Modality, Ragged
from polyclinic.tokens import Bert, Events, Gpt, Vit, phantom

IMAGE, TEXT, TABLE = Modality.IMAGE, Modality.TEXT, Modality.TABLE
SIZE: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2}
NAN = math.nan
ALL = Window(frozenset({IMAGE, TABLE}), frozenset({IMAGE, TEXT, TABLE}), 24.0)
TEXTS = {"bert": Bert(words=8, **SIZE), "gpt": Gpt(words=8, **SIZE)}


def ragged(
    values: Any, patient: list[int], hours: list[float], patients: int = 1, studies: list[str | None] | None = None,
    kind: str = "kind", ids: str = "r",
) -> Ragged:  # fmt: skip
    n = len(patient)
    when = torch.tensor(hours, dtype=torch.float64)
    return Ragged(
        values, torch.tensor(patient), when.nan_to_num().float(), None, patients, [f"{ids}{i}" for i in range(n)], None, [kind] * n,
        when, studies,
    )  # fmt: skip


def images(hours: list[float], **more: Any) -> Ragged:
    draws = torch.Generator().manual_seed(0)
    return ragged(torch.randn(len(hours), 1, 32, 32, generator=draws), [0] * len(hours), hours, ids="image", **more)


def notes(hours: list[float], **more: Any) -> Ragged:
    texts = [torch.tensor([2, 10 + i, 20 + i]) for i in range(len(hours))]
    return ragged(texts, [0] * len(hours), hours, ids="note", **more)


def history(start: float, hours: list[float], kind: str = KIND) -> Ragged:
    events = torch.tensor([[n % 5, 0.5, hour] for n, hour in enumerate(hours)])
    return ragged([events], [0], [start], kind=kind, ids="history")


def ids(batch: Batch) -> set[str]:
    return {i for r in batch.payloads.values() for i in r.ids}


YEAR = 24 * 365.0


def test_a_patient_as_the_report_found_them() -> None:
    """One report at 1000 h: what each window shows of everything that is there."""
    data = Batch(
        {
            IMAGE: images([0.0, 998.0, 1000.0, 1001.0, NAN]),
            TEXT: notes([2.0, 980.0, 1000.0, 1000.0, 1030.0, NAN]),
            TABLE: history(0.0, [0.0, 1.0, 975.5, 976.5, 1000.5]),
        },
        {}, ["p"],
    )  # fmt: skip
    report = Reports((0,), (1000.0,), (None,))
    shown = lambda study, earlier: known(data, report, Window(frozenset(study), frozenset(earlier), 24.0))
    assert ids(shown([IMAGE], [])) == {"image1", "image2"}
    assert ids(shown([IMAGE], [IMAGE, TEXT])) == {"image0", "image1", "image2", "note0"}
    assert ids(shown([], [TEXT])) == {"note0"}
    assert shown([], []).payloads == {}
    assert shown([TABLE], []).payloads[TABLE].values[0][:, 2].tolist() == [976.5]
    assert shown([], [TABLE]).payloads[TABLE].values[0][:, 2].tolist() == [1.0, 975.5]
    both = shown([TABLE], [TABLE]).payloads[TABLE]
    assert both.values[0][:, 2].tolist() == [1.0, 975.5, 976.5]  # the first may have no time at all
    assert both.time_h.tolist() == [-1000.0]
    assert shown([IMAGE], [IMAGE]).payloads[IMAGE].time_h.tolist() == [-1000.0, -2.0, 0.0]


def test_a_report_of_the_same_study_is_never_shown_however_long_before() -> None:
    data = Batch({TEXT: notes([0.0, 500.0, 1000.0], studies=["other", "this", "this"])}, {}, ["p"])
    assert ids(known(data, Reports((0,), (1000.0,), ("this",)), ALL)) == {"note0"}
    assert ids(known(data, Reports((0,), (1000.0,), (None,)), ALL)) == {"note0", "note1"}


def test_a_moment_after_the_report_is_after_it_in_a_long_life() -> None:
    """float32 cannot tell a second from the next after thirty years."""
    at = 30 * YEAR
    data = Batch(
        {IMAGE: images([at + 1 / 3600, at - 1 / 3600]), TABLE: history(0.0, [0.0, at + 1e-3, at - 1])}, {}, ["p"]
    )
    shown = known(data, Reports((0,), (at,), (None,)), ALL)
    assert ids(shown) == {"image1", "history0"}
    assert len(shown.payloads[TABLE].values[0]) == 1


def test_a_row_of_a_table_counts_whole_by_its_date() -> None:
    rows = history(999.0, [0.0, 0.0], kind="table register")
    report = Reports((0,), (1000.0,), (None,))
    assert len(known(Batch({TABLE: rows}, {}, ["p"]), report, ALL).payloads[TABLE].values[0]) == 2
    later = replace(rows, dated_h=torch.tensor([1000.5], dtype=torch.float64))
    undated = replace(rows, dated_h=torch.tensor([NAN], dtype=torch.float64))
    for one in (later, undated, replace(rows, dated_h=None)):
        assert known(Batch({TABLE: one}, {}, ["p"]), report, ALL).payloads == {}


HOURS = st.one_of(st.just(NAN), st.integers(0, 200).map(float))


@given(
    pictures=st.lists(st.tuples(st.integers(0, 2), HOURS), max_size=6), texts=st.lists(st.tuples(st.integers(0, 2), HOURS), max_size=6),
    study=st.sets(st.sampled_from([IMAGE, TEXT])), earlier=st.sets(st.sampled_from([IMAGE, TEXT])),
    study_h=st.sampled_from([1.0, 24.0, 90.0]),
    uids=st.lists(st.sampled_from(["a", "b", None]), min_size=12, max_size=12),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_whatever_is_asked_for_no_report_is_shown_what_came_with_or_after_it(
    pictures: list[tuple[int, float]], texts: list[tuple[int, float]], study: set[Modality], earlier: set[Modality], study_h: float,
    uids: list[str | None],
) -> None:  # fmt: skip
    made = lambda rows, values, name, own: ragged(values, [p for p, _ in rows], [h for _, h in rows], 3, own, ids=name)
    pictures, texts = sorted(pictures, key=lambda r: r[0]), sorted(texts, key=lambda r: r[0])
    payloads = {}
    if pictures:
        payloads[IMAGE] = made(pictures, torch.zeros(len(pictures), 1, 2, 2), "image", uids[: len(pictures)])
    if texts:
        payloads[TEXT] = made(texts, [torch.tensor([2, 3])] * len(texts), "note", uids[6 : 6 + len(texts)])
    data = Batch(payloads, {}, ["a", "b", "c"])
    reports, own = written(data)
    assert len(reports.patient) == sum(not math.isnan(h) for _, h in texts)
    shown = known(data, reports, Window(frozenset(study), frozenset(earlier), study_h))
    assert len(shown.patients) == len(reports.patient)
    assert TEXT not in shown.payloads or TEXT in earlier
    for modality, found in shown.payloads.items():
        source = payloads[modality]
        for name, n, since in zip(found.ids, found.patient.tolist(), found.time_h.tolist(), strict=True):
            i = source.ids.index(name)
            assert source.patient[i] == reports.patient[n]
            hour = float(source.dated_h[i])  # type: ignore[index]
            assert hour <= reports.at_h[n]
            assert since == pytest.approx(hour - reports.at_h[n])
            assert modality in (earlier if hour < reports.at_h[n] - study_h else study)
            if modality is TEXT:
                assert own is not None
                assert hour < reports.at_h[n] - study_h
                assert name != own.ids[n]
                uid = source.studies[i]  # type: ignore[index]
                assert uid is None or uid != reports.studies[n]
        assert found.patient.tolist() == sorted(found.patient.tolist())
    late = of_the_study(shown, study_h)
    assert all(h >= -study_h for r in late.payloads.values() for h in r.time_h.tolist())


def test_what_is_due_is_of_the_latest_study() -> None:
    data = Batch(
        {
            IMAGE: ragged(torch.zeros(5, 1, 2, 2), [0, 0, 1, 2, 2], [5.0, 900.0, NAN, 7.0, NAN], 4, ["a", "b", "c", "d", "e"]),
            TEXT: ragged([torch.tensor([2])] * 2, [0, 1], [2000.0, 3.0], 4),
            TABLE: ragged([torch.tensor([[0, 0, 0.0], [1, 0, 30.0]])] * 2, [0, 3], [0.0, 10.0], 4, kind=KIND),
        },
        {}, list("wxyz"),
    )  # fmt: skip
    found = due(data, [IMAGE, TABLE])
    assert found.patient == (0, 1, 2, 3)
    assert found.studies == ("b", None, "d", None)
    assert found.at_h[0] == 900
    assert math.isnan(found.at_h[1])
    assert found.at_h[2] == 7
    assert found.at_h[3] == pytest.approx(40, abs=1e-4)
    shown = known(data, found, ALL)
    # Patient 1 has nothing but an image without a date, which is what is asked about; of 2 the undated one may be of any time.
    images_of = lambda p: [
        h
        for q, h in zip(shown.payloads[IMAGE].patient.tolist(), shown.payloads[IMAGE].time_h.tolist(), strict=True)
        if q == p
    ]
    assert [images_of(p) for p in range(4)] == [[-895.0, 0.0], [0.0], [0.0], []]
    assert TEXT not in shown.payloads
    assert len(shown.payloads[TABLE].values[1]) == 1
    half = Reports((0, 1), (950.0, NAN), ("x", None)).or_else(found)
    assert half.at_h[0] == 950
    assert half.studies == ("x", None)


def model(text: str, kind: str = "two_tower") -> Model:
    encoders = {IMAGE: Vit(size=32, patch=16, **SIZE), TEXT: TEXTS[text], TABLE: Events(**SIZE)}
    spec = {"two_tower": TwoTower(width=16, embedding=16, fusion=Late()),
            "early": TwoTower(width=16, embedding=16, fusion=Early(depth=1, heads=2)),
            "unified": Unified(width=16, embedding=16, fusion=Late())}[kind]  # fmt: skip
    return build_model(spec, encoders, phantom.fingerprint(), 0)


def built(net: Model, earlier: tuple[Modality, ...] | None, **more: Any) -> CaptionObjective:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Caption(**{"width": 16, "depth": 1, "heads": 2, "earlier": earlier, **more}).build(net, {})


def everything() -> Batch:
    return Batch(
        {IMAGE: images([0.0, 998.0, 1001.0, NAN]), TEXT: notes([2.0, 1000.0, 1000.0, NAN]), TABLE: history(0.0, [0.0, 1.0, 990.0, 1002.0])},
        {}, ["p"],
    )  # fmt: skip


def altered(data: Batch, name: str) -> Batch:
    """Another content of one record, or of the table's last event."""
    payloads = dict(data.payloads)
    for modality, r in data.payloads.items():
        if name in r.ids:
            values: Any = [v.clone() for v in r.values]
            i = r.ids.index(name)
            if modality is TABLE:
                values[i][-1, :2] += 1
            else:
                values[i] = values[i] + 1 if modality is TEXT else values[i] + 3
            payloads[modality] = replace(r, values=values if isinstance(r.values, list) else torch.stack(values))
    return Batch(payloads, {}, data.patients)


@pytest.mark.parametrize("kind", ["two_tower", "early", "unified"])
@pytest.mark.parametrize("text", TEXTS)
def test_what_it_must_not_see_changes_no_bit(text: str, kind: str) -> None:
    """Through every encoder, fusion and decoder: the words' chances are the same whatever the report, a later record or one without a
    date says, and others where what may be seen does."""
    net = model(text, kind)
    objective = built(net, (IMAGE, TEXT, TABLE))
    report = Reports((0,), (1000.0,), (None,))
    hot = lambda data: objective.write(net, data, 7, None, Sampling(5.0), torch.Generator().manual_seed(1), report)[0]

    def chances(data: Batch) -> Tensor:
        shown = objective.shown(net.encode(objective.told(net, data, report)))
        assert shown is not None
        return shown.values

    data = everything()
    with torch.no_grad():
        for name in ("image2", "image3", "note1", "note2", "note3", "history0"):
            assert torch.equal(chances(altered(data, name)), chances(data)), name
            assert torch.equal(hot(altered(data, name)), hot(data)), name
        for name in ("image0", "image1", "note0"):
            assert not torch.equal(chances(altered(data, name)), chances(data)), name


@pytest.mark.parametrize("text", TEXTS)
def test_no_gradient_comes_from_what_it_must_not_see(text: str) -> None:
    net, data = model(text), everything()
    objective = built(net, (IMAGE,), modalities=(IMAGE,))
    picture = data.payloads[IMAGE].values
    assert isinstance(picture, Tensor)
    picture.requires_grad_(True)
    # Of the note at 2 h, and of the two at 1000 h.
    objective(net, data, torch.Generator()).terms["caption/text"].backward()
    assert picture.grad is not None
    assert picture.grad.flatten(1).any(1).tolist() == [True, True, False, False]


@pytest.mark.parametrize("text", TEXTS)
def test_without_anything_earlier_the_same_network_writes_as_if_there_were_nothing(text: str) -> None:
    net, report = model(text), Reports((0,), (1000.0,), (None,))
    shown, alone = built(net, (IMAGE, TEXT)), built(net, ())
    bare = Batch({IMAGE: images([998.0])}, {}, ["p"])
    told = lambda objective, data: objective.write(
        net, data, 6, None, Sampling(5.0), torch.Generator().manual_seed(2), report
    )[0]
    assert torch.equal(told(shown, bare), told(alone, bare))
    data = Batch({IMAGE: images([998.0, 0.0]), TEXT: notes([2.0])}, {}, ["p"])
    assert torch.equal(told(alone, data), told(alone, bare))
    assert objective_sees(shown, net, data, report) > objective_sees(alone, net, data, report)


def objective_sees(objective: CaptionObjective, net: Model, data: Batch, report: Reports) -> int:
    shown = objective.shown(net.encode(objective.told(net, data, report)))
    assert shown is not None
    return len(shown.values)


@pytest.mark.parametrize("text", TEXTS)
def test_it_learns_to_say_what_was_there_before(text: str) -> None:
    """Whether the picture before was brighter than grey, whatever the picture now; and that there is none before."""
    net = model(text)
    objective = built(net, (IMAGE,), modalities=(IMAGE,))
    adam = torch.optim.AdamW([*net.parameters(), *objective.parameters()], 5e-3)
    draws, words = torch.Generator().manual_seed(0), {1: [2, 10], -1: [2, 20], 0: [2, 30]}

    def made(n: int) -> tuple[Batch, list[int]]:
        now, turn = torch.randint(-1, 2, (n,), generator=draws), torch.randint(-1, 2, (n,), generator=draws).tolist()
        hours, own, values = [], [], []
        for p, change in enumerate(turn):
            for hour, bright in [(0.0, change)] * bool(change) + [(998.0, float(now[p]))]:
                hours.append(hour)
                own.append(p)
                values.append(bright * torch.ones(1, 32, 32) + 0.05 * torch.randn(1, 32, 32, generator=draws))
        texts = ragged([torch.tensor(words[t]) for t in turn], list(range(n)), [1000.0] * n, n)
        return Batch(
            {IMAGE: ragged(torch.stack(values), own, hours, n), TEXT: texts}, {}, [str(p) for p in range(n)]
        ), turn

    for _ in range(100):
        total = objective(net, made(24)[0], draws).total
        assert total is not None
        adam.zero_grad()
        total.backward()
        adam.step()
    data, turn = made(60)
    found = objective.write(net, data, 3, reports=Reports(tuple(range(60)), (1000.0,) * 60, (None,) * 60))
    right = [found[p].tolist()[:1] == words[t][1:] for p, t in enumerate(turn)]
    assert sum(right) >= 54


def test_nobody_with_a_dated_note_says_nothing() -> None:
    net = model("bert")
    objective = built(net, (IMAGE,))
    for hours in ([NAN], []):
        data = Batch({IMAGE: images([5.0])} | ({TEXT: notes(hours)} if hours else {}), {}, ["p"])
        assert objective(net, data, torch.Generator()).terms == {}
    assert objective(net, Batch({TEXT: notes([3.0])}, {}, ["p"]), torch.Generator()).terms == {}


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="`earlier: \\[text\\]`"):
        Caption(modalities=(TEXT,))
    with pytest.raises(ValidationError, match="greater than 0"):
        Caption(earlier=(), study_h=0.0)
    assert Caption(modalities=(IMAGE,), earlier=(TABLE,)).named() == {IMAGE, TEXT, TABLE}
    assert Caption().window([IMAGE]) is None
