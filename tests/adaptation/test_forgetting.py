from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from polyclinic.adaptation import AdaptError, adapt, open_adapted
from polyclinic.adaptation.forgetting import BATCHES, Pretraining, fisher
from polyclinic.cohort import Cohort
from polyclinic.inference import forgotten
from polyclinic.training import Run

STEPS = 6


def full(run: Run, into: Path, **options: Any) -> Run:
    method = {"kind": "full", "lr": 4e-3, **options}
    return adapt(
        run, "finding", method, steps=STEPS, into=into / "-".join(map(str, [*options, *options.values(), "full"]))
    )


def weights(run: Run) -> dict[str, Tensor]:
    return dict(open_adapted(run).model.named_parameters())


@pytest.fixture(scope="module")
def plain(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return full(tiny_run, tmp_path_factory.mktemp("plain"))


def test_what_moves_the_backbone_says_what_pretraining_lost(plain: Run, tiny_run: Run, tiny_cohort: Cohort) -> None:
    told, asked = plain.adapter["forgetting"], Pretraining(tiny_run, tiny_cohort, train=False)
    assert told["before"] == pytest.approx(asked.losses(tiny_run.model()), rel=1e-5)
    assert told["after"] == pytest.approx(asked.losses(open_adapted(plain).model), rel=1e-4)
    assert told["before"].keys() == told["after"].keys()
    assert told["before"] != told["after"]
    assert set(asked.loader.patients) <= set(tiny_run.split.test)
    assert told["patients"] == len(asked.loader.patients) > 0


@pytest.mark.parametrize("method", ["probe", "lora", "prompt", "knn"])
def test_what_leaves_it_as_it_was_has_nothing_to_say(method: str, tiny_run: Run, tmp_path: Path) -> None:
    assert "forgetting" not in adapt(tiny_run, "finding", method, steps=1, into=tmp_path).adapter


def test_fisher_is_the_mean_square_of_the_gradients(tiny_run: Run, tiny_cohort: Cohort) -> None:
    asked, model = Pretraining(tiny_run, tiny_cohort, train=True), tiny_run.model()
    assert set(asked.loader.patients) <= set(tiny_run.split.train)
    found = fisher(asked.total, model)
    squares = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for step in range(BATCHES):
        model.zero_grad(set_to_none=True)
        total = asked.ask(model, step).total
        assert total is not None
        total.backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                squares[name] += p.grad**2
    mean = torch.cat([s.flatten() for s in squares.values()]).mean()
    assert found.keys() == {n for n, s in squares.items() if bool(s.any())}
    for name, f in found.items():
        torch.testing.assert_close(f, squares[name] / mean, atol=1e-4, rtol=1e-3)


def test_weights_that_pretraining_minds_are_held(
    plain: Run, tiny_run: Run, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    """Measured as EWC measures it: by the Fisher information that each weight has."""
    matters = fisher(Pretraining(tiny_run, tiny_cohort, train=True).total, tiny_run.model())
    before = dict(tiny_run.model().named_parameters())
    moved = lambda run: sum(
        float((f * (weights(run)[n] - before[n]).square()).sum().detach()) for n, f in matters.items()
    )
    assert moved(full(tiny_run, tmp_path, ewc=1.0)) < 0.5 * moved(plain)


def test_a_patient_s_vector_keeps_its_direction(plain: Run, tiny_run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    loader = tiny_run.loader(tiny_cohort, tiny_run.split.train)
    batch = loader.of(loader.patients)

    def turned(run: Run) -> float:
        with torch.no_grad():
            one, other = tiny_run.model()(batch), open_adapted(run).model(batch)
        return float(1 - torch.cosine_similarity(one.pooled[one.present], other.pooled[one.present]).mean())

    assert turned(full(tiny_run, tmp_path, distil=20.0)) < 0.5 * turned(plain)


def test_rehearsed_pretraining_is_forgotten_less(
    plain: Run, tiny_run: Run, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    """Of the patients that it rehearses: those kept for testing are too few here to tell."""
    asked = Pretraining(tiny_run, tiny_cohort, train=True)
    total = lambda run: sum(asked.losses(open_adapted(run).model).values())
    assert total(full(tiny_run, tmp_path, rehearsal=1.0)) < total(plain)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_between_the_old_weights_and_the_new(share: float, plain: Run, tiny_run: Run, tmp_path: Path) -> None:
    """To the bit at the old end; halfway, each weight in the middle, the head's too (Wortsman et al. 2022, equation 1)."""
    between, old, new = (
        weights(full(tiny_run, tmp_path, interpolate=share)),
        dict(tiny_run.model().named_parameters()),
        weights(plain),
    )
    for name, tensor in between.items():
        if share:
            torch.testing.assert_close(tensor, (old[name] + new[name]) / 2, atol=1e-6, rtol=1e-5)
        else:
            assert torch.equal(tensor, old[name])


def test_earlier_heads_are_asked_again(plain: Run, tiny_run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    probe = adapt(tiny_run, "survival", "probe", into=tmp_path / "probe")
    found = {f.what: f for f in forgotten(plain, [probe], tiny_cohort)}
    told = plain.adapter["forgetting"]
    for name, before in told["before"].items():
        assert (found[name].before, found[name].metric) == (pytest.approx(before, rel=1e-5), "loss")
    survival = found["survival"]
    assert survival.metric == "concordance"
    assert survival.n > 0
    nothing = full(tiny_run, tmp_path, interpolate=0.0)
    same = forgotten(nothing, [probe], tiny_cohort)
    assert all(f.before == pytest.approx(f.after, rel=1e-5, nan_ok=True) for f in same)


def test_a_head_that_rests_on_other_vectors_is_refused(
    plain: Run, tiny_run: Run, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    lora = adapt(tiny_run, "survival", "lora", steps=1, into=tmp_path)
    with pytest.raises(AdaptError) as caught:
        forgotten(plain, [lora], tiny_cohort)
    assert "by lora" in caught.value.found
    assert "probe" in caught.value.expected
