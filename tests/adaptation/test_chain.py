from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from polyclinic.adaptation import AdaptError, adapt, open_adapted
from polyclinic.adaptation.adapt import planned
from polyclinic.adaptation.chain import Earlier, begun, chain
from polyclinic.adaptation.plan import inputs_of
from polyclinic.cohort import Cohort
from polyclinic.inference import predict
from polyclinic.tasks import ClassificationTask
from polyclinic.training import Run
from polyclinic.training.methods import Full

FAST = {"kind": "full", "lr": 4e-3}
STEPS = 6


def weights(run: Run) -> dict[str, Tensor]:
    return dict(open_adapted(run, folded=False).model.named_parameters())


@pytest.fixture(scope="module")
def first(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return adapt(tiny_run, "survival", FAST, steps=STEPS, into=tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def second(tiny_run: Run, first: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return adapt(tiny_run, "finding", FAST, steps=STEPS, after=first, into=tmp_path_factory.mktemp("second"))


def test_it_goes_on_from_the_weights_that_were_left(tiny_run: Run, first: Run, second: Run, tmp_path: Path) -> None:
    """Back at the old end of the interpolation lie the weights of the run before, to the bit, and not the backbone's."""
    back = adapt(tiny_run, "finding", FAST | {"interpolate": 0.0}, steps=STEPS, after=first, into=tmp_path)
    old, now, backbone = weights(first), weights(back), dict(tiny_run.model().named_parameters())
    assert all(torch.equal(now[n], old[n]) for n in old)
    assert any(not torch.equal(now[n], backbone[n]) for n in old)
    assert any(not torch.equal(weights(second)[n], old[n]) for n in old)


def test_it_answers_by_itself_and_says_what_it_goes_on_from(second: Run, first: Run, tiny_cohort: Cohort) -> None:
    assert [run.path for run in chain(second)] == [first.path.resolve(), second.path]
    assert chain(first) == [first]
    assert second.adapter["backbone"] == first.adapter["backbone"]
    assert len(predict(second, tiny_cohort).patients) > 0


def test_a_run_after_another_has_a_folder_of_its_own(tiny_run: Run, first: Run) -> None:
    made = adapt(tiny_run, "finding", "full", steps=1, labels=6, after=first)
    assert made.path.name.startswith("finding-full-6-0-after-survival-")


@pytest.mark.parametrize("method", ["lora", "bitfit", "prefix"])
def test_adapters_go_on_learning(method: str, tiny_run: Run, tmp_path: Path) -> None:
    one = adapt(tiny_run, "finding", method, steps=2, into=tmp_path / "one")
    model, added = begun(one)
    assert (model.training, bool(added)) == (False, method != "bitfit")
    # With a rate of nearly nothing the next one has what the first had learned, and does not begin anew.
    two = adapt(tiny_run, "finding", {"kind": method, "lr": 1e-12}, steps=1, after=one, into=tmp_path / "two")
    then, now, backbone = weights(one), weights(two), dict(tiny_run.model().named_parameters())
    for name, tensor in then.items():
        torch.testing.assert_close(now[name], tensor, atol=1e-7, rtol=0)
    learned = [n for n in then if n not in backbone or not torch.equal(then[n], backbone[n])]
    assert learned
    assert any(float(then[n].abs().sum()) > 0 for n in learned)


def test_a_frozen_backbone_is_a_beginning_for_all(tiny_run: Run, tiny_finding_run: Run, tmp_path: Path) -> None:
    alone = adapt(tiny_run, "survival", FAST, steps=2, into=tmp_path / "alone")
    after = adapt(tiny_run, "survival", FAST, steps=2, after=tiny_finding_run, into=tmp_path / "after")
    assert all(torch.equal(a, weights(after)[n]) for n, a in weights(alone).items())


@pytest.mark.parametrize(("method", "before", "found"), [
    ("lora", "full", "lora to go on after full"),
    ("full", "lora", "full to go on after lora"),
    ({"kind": "lora", "rank": 2}, "lora", "lora to go on after lora"),
    ("scratch", "full", "scratch to go on after full"),
    ("full", "knn", "full to go on after knn"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(
    method: Any, before: str, found: str, tiny_run: Run, tmp_path: Path
) -> None:
    run = adapt(tiny_run, "finding", before, steps=1, labels=6, into=tmp_path / "before")
    with pytest.raises(AdaptError) as caught:
        adapt(tiny_run, "finding", method, steps=1, labels=6, after=run, into=tmp_path / "after")
    assert found in caught.value.found
    assert caught.value.remedy


def test_after_a_backbone_or_after_nothing(tiny_run: Run, tmp_path: Path) -> None:
    with pytest.raises(AdaptError, match="is not adapted"):
        adapt(tiny_run, "finding", "full", after=tiny_run, into=tmp_path)
    with pytest.raises(AdaptError, match="of which there is none"):
        adapt(tiny_run, "finding", FAST | {"replay": 1.0}, into=tmp_path)


def test_a_replayed_head_weighs_both_classes_alike(tiny_run: Run, tiny_cohort: Cohort, tiny_finding_run: Run) -> None:
    """Its offset is what it was before the prevalence was given back."""
    plan = planned(tiny_run, "survival", (Full(),), None, tiny_cohort, 0, 4, inputs_of(tiny_run, "survival"))
    again = Earlier(plan, tiny_finding_run, None)
    assert isinstance(again.head, ClassificationTask)
    told = open_adapted(tiny_finding_run).task
    assert isinstance(told, ClassificationTask)
    known = again.plan.loader.labelled("finding")
    again.head.to_prevalence([known[p] for p in again.plan.patients])
    torch.testing.assert_close(again.head.head.bias, told.head.bias, atol=1e-6, rtol=1e-6)
    assert again.plan.patients == sorted(tiny_finding_run.adapter["labelled"])


def test_memory_is_nested(tiny_run: Run, tiny_cohort: Cohort, tiny_finding_run: Run) -> None:
    plan = planned(tiny_run, "survival", (Full(),), None, tiny_cohort, 0, 4, inputs_of(tiny_run, "survival"))
    few, more = (set(Earlier(plan, tiny_finding_run, n).plan.patients) for n in (2, 4))
    assert (len(few), len(more)) == (2, 4)
    assert few < more < set(tiny_finding_run.adapter["labelled"]) | more
    used = {p for names in Earlier(plan, tiny_finding_run, 2).orders for p in names}
    assert used == few


def test_replayed_tasks_are_forgotten_less(
    tiny_run: Run, tiny_cohort: Cohort, first: Run, second: Run, tmp_path: Path
) -> None:
    """Of the patients that are replayed: those kept for testing are too few here to tell."""
    held = adapt(tiny_run, "finding", FAST | {"replay": 4.0}, steps=STEPS, after=first, into=tmp_path)
    plan = planned(tiny_run, "finding", (Full(),), None, tiny_cohort, 0, 4, inputs_of(tiny_run, "finding"))
    old = Earlier(plan, first, None)

    def lost(run: Run) -> float:
        batch = old.plan.loader.of(old.plan.patients, old.plan.reads)
        with torch.no_grad():
            loss = old.head.loss(old.head.output(open_adapted(run).model, batch), batch.targets["survival"])
        assert loss is not None
        return float(loss)

    assert lost(held) < lost(second)


def test_ewc_after_an_earlier_task_holds_what_that_minds(
    tiny_run: Run, tiny_cohort: Cohort, first: Run, second: Run, tmp_path: Path
) -> None:
    from polyclinic.adaptation.forgetting import fisher

    held = adapt(tiny_run, "finding", FAST | {"ewc": 100.0}, steps=STEPS, after=first, into=tmp_path)
    plan = planned(tiny_run, "finding", (Full(),), None, tiny_cohort, 0, STEPS, inputs_of(tiny_run, "finding"))
    before = begun(first)[0]
    matters, start = fisher(Earlier(plan, first, None).loss, before), weights(first)
    moved = lambda run: sum(
        float((f * (weights(run)[n] - start[n]).square()).sum().detach()) for n, f in matters.items()
    )
    assert moved(held) < 0.5 * moved(second)
