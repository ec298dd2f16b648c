"""The nearest mean, against scikit-learn's and against what it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import NearestCentroid

from polyclinic.adaptation.prototypes import fit_prototypes
from polyclinic.tasks import ClassificationTask
from vectors import SPEC, among, both, four, normed, signs, two, views


def test_a_prototype_is_the_nearest_centroid() -> None:
    x, y = two(60)
    new, _ = two(200, seed=1)
    head = ClassificationTask("finding", SPEC, 64)
    fit_prototypes(head, views(x, y))
    peer = NearestCentroid().fit(normed(x), y.numpy()).predict(normed(new))
    np.testing.assert_array_equal((head.read(new).detach() > 0).numpy(), peer > 0)


def test_of_several_classes_the_nearest_centroid_is_said() -> None:
    (x, y), (new, _), head = four(90), four(200, 1), among()
    fit_prototypes(head, views(x, y))
    head.to_prevalence(y.long().tolist())
    told = head.answer(head.read(new)).detach()
    peer = NearestCentroid().fit(normed(x), y.numpy()).predict(normed(new))
    np.testing.assert_array_equal(told.argmax(1).numpy(), peer)
    assert told[:, 3].max() < 1e-4, "nobody was of that class"


def test_of_several_classes_a_prototype_is_as_sure_as_it_may_be() -> None:
    """No steeper or flatter one explains new patients better by more than a hair, whether a class has many or two patients."""
    for many, hair in ((2000, 0.002), (40, 0.05)):
        (x, y), (new, truth), head = four(many), four(2000, 1), among()
        fit_prototypes(head, views(x, y))
        with torch.no_grad():
            said = head.read(new)[:, :3]
        weight = 1 / torch.bincount(truth.long()).float()
        lost = [float(F.cross_entropy(s * said, truth.long(), weight)) for s in (0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 2.0)]
        assert lost[3] < min(lost) + hair
        assert lost[3] < np.log(3)
    one_each = among()
    fit_prototypes(one_each, views(x[:3], torch.tensor([0.0, 1.0, 2.0])))
    assert one_each.read(x[:3]).argmax(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("apart", [0.5, 2.0])
def test_a_prototype_is_as_sure_as_a_logistic_regression_along_its_line(apart: float) -> None:
    x, y = two(3000, apart)
    head = ClassificationTask("finding", SPEC, 64)
    fit_prototypes(head, views(x, y))
    new, truth = two(3000, apart, seed=1)
    with torch.no_grad():
        at, logits = head.read(x)[:, None].numpy(), head.read(new)[:, None].numpy()
    peer = LogisticRegression(C=np.inf, class_weight="balanced").fit(at, y.numpy())
    weights = np.where(truth > 0, 2.0, 1.0)
    ours = log_loss(truth, 1 / (1 + np.exp(-logits)), sample_weight=weights)
    assert ours == pytest.approx(log_loss(truth, peer.predict_proba(logits), sample_weight=weights), abs=0.01)


def test_patients_who_cannot_be_told_apart_leave_a_prototype_less_sure_than_they_seem() -> None:
    """In 64 numbers 30 patients are told apart by chance; what others' means say of each is worth as much as of a new one."""
    ours, naive = [], []
    for seed in range(10):
        (x, y), (new, truth) = two(30, 0.0, seed=seed), two(300, 0.0, seed=seed + 100)
        head = ClassificationTask("finding", SPEC, 64)
        fit_prototypes(head, views(x, y))
        with torch.no_grad():
            seen, logits = head.read(x), head.read(new)
        spread = torch.cat([seen[y > 0] - seen[y > 0].mean(), seen[y < 1] - seen[y < 1].mean()]).var()
        steep = (seen[y > 0].mean() - seen[y < 1].mean()) / spread
        ours.append(log_loss(truth, torch.sigmoid(logits).numpy()))
        naive.append(log_loss(truth, torch.sigmoid(steep * logits).numpy()))
        assert len(logits.unique()) == 300  # and still they are ranked
    assert np.mean(ours) < 0.9 < np.mean(naive)


def test_one_patient_of_each_class_stands_at_two() -> None:
    x, y = torch.randn(2, 8), torch.tensor([0.0, 1.0])
    head = ClassificationTask("finding", SPEC, 8)
    fit_prototypes(head, views(x, y))
    torch.testing.assert_close(head.read(x).detach(), torch.tensor([-2.0, 2.0]), atol=1e-5, rtol=1e-5)


def test_of_each_finding_the_nearer_mean_is_said_by_those_of_whom_it_is_known() -> None:
    (x, y), (new, _), head = signs(90), signs(200, 1), both()
    fit_prototypes(head, views(x, y))
    told = head.read(new).detach() > 0
    for n in range(2):
        known = y[:, n].isfinite()
        peer = NearestCentroid().fit(normed(x)[known], y[known, n].numpy()).predict(normed(new))
        np.testing.assert_array_equal(told[:, n].numpy(), peer > 0)


def test_what_is_unknown_of_a_patient_says_nothing() -> None:
    """The second finding's line is the one that its own patients alone draw, and is nobody else's."""
    (x, y), head, alone = signs(90), both(), ClassificationTask("grown", SPEC, 64)
    fit_prototypes(head, views(x, y))
    known = y[:, 1].isfinite()
    fit_prototypes(alone, views(x[known], y[known, 1]))
    new, _ = signs(50, 1)
    torch.testing.assert_close(head.read(new)[:, 1], alone.read(new), atol=1e-4, rtol=1e-4)


def test_how_common_each_finding_is_is_given_back_and_the_nearer_mean_stays_the_border() -> None:
    (x, y), head = signs(90), both()
    fit_prototypes(head, views(x, y))
    new, _ = signs(50, 1)
    before = head.read(new).detach()
    head.to_prevalence([tuple(row) for row in y.tolist()])
    share = y.nanmean(0)
    torch.testing.assert_close(head.read(new).detach() - before, torch.logit(share).expand(50, 2), atol=1e-5, rtol=1e-5)
    said = head.answer(head.read(new)).detach() >= torch.tensor(head.thresholds)
    assert torch.equal(said, before >= 0)
