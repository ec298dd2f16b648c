from __future__ import annotations

import pytest
import torch

from polyclinic.objectives.views import Views, draw
from polyclinic.schema import Modality, Tokens
from polyclinic.tokens import phantom, select

ENCODERS = phantom.encoders()
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}
FINGERPRINT = phantom.fingerprint()


def embedded(modality: Modality, has: dict[str, int]) -> tuple[Tokens, list[str], torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = ENCODERS[modality].build(FINGERPRINT)
    ragged = phantom.ragged(STANDARDS[modality], has)
    with torch.no_grad():
        return encoder.embed(ragged), ragged.ids, encoder.position.scale


def drawn(
    modality: Modality, has: dict[str, int], shares: list[tuple[float, float]], seed: int = 0
) -> tuple[Tokens, Views]:
    tokens, ids, scale = embedded(modality, has)
    return tokens, draw(tokens, ids, shares, seed, scale)


@pytest.mark.parametrize("modality", list(ENCODERS))
def test_a_view_is_a_part_of_one_record_in_its_order(modality: Modality) -> None:
    shares = [(0.5, 0.5), (0.1, 0.4), (1.0, 1.0)]
    tokens, views = drawn(modality, {"a": 2, "b": 0, "c": 1}, shares)
    rows = [r for r in range(3) if int((tokens.record == r).sum()) > 1]
    assert views.record.tolist() == rows * 3  # each share in turn
    found = views.of(tokens)
    for number, record in enumerate(views.record.tolist()):
        (low, high), n = shares[number // len(rows)], int((tokens.record == record).sum())
        mine = views.token[views.view == number]
        assert max(1, round(low * n)) <= len(mine) <= max(1, round(high * n))
        assert (tokens.record[mine] == record).all()
        assert mine.tolist() == sorted(set(mine.tolist()))
        assert torch.equal(found.values[found.record == number], tokens.values[mine])
        assert torch.equal(found.position[found.patient == number], tokens.position[mine])
    assert found.lengths.tolist() == torch.bincount(views.view).tolist()


def test_a_view_of_an_image_is_a_square_of_it() -> None:
    tokens, views = drawn(Modality.IMAGE, {"a": 1}, [(9 / 16, 9 / 16)] * 60)
    x, y = (torch.unique(tokens.position[:, axis]).tolist() for axis in (0, 1))
    squares = 0
    for number in range(60):
        place = tokens.position[views.token[views.view == number]]
        columns, rows = ({of.index(v) for v in place[:, axis].tolist()} for axis, of in ((0, x), (1, y)))
        assert len(columns) <= 4
        squares += len(columns) == len(rows) == 3 and len(place) == 9
        for numbers in (columns, rows):
            assert numbers == set(range(min(numbers), max(numbers) + 1))  # no gaps
    assert squares > 5  # those about a middle token, of pixels as high as wide or nearly so; at the border a box is cut


def test_of_a_larger_record_all_views_are_of_one_region() -> None:
    """The tiles of a slide of 12 × 10, in a region of 4 × 4: as TITAN's crops of 14 × 14 and 6 × 6 are of 16 × 16."""
    at = torch.cartesian_prod(torch.arange(10.0), torch.arange(12.0)).flip(1)
    n, none = len(at), torch.zeros(len(at), dtype=torch.int64)
    position = torch.cat([at * 0.256, torch.zeros(n, 2)], 1)
    slide = Tokens(
        torch.zeros(n, 4), none, none + Modality.SLIDE.number, none, position, torch.zeros(n), torch.tensor([n])
    )
    shares, scale, apart = (
        [(9 / 16, 9 / 16), (1.0, 1.0), (1 / 16, 4 / 16)],
        torch.tensor([0.256, 0.256, 0.256, 1]),
        set(),
    )
    for seed in range(30):
        views = draw(slide, ["s"], shares, seed, scale, region=16)
        region = set(views.token[views.view == 1].tolist())
        assert len(region) == 16
        assert set(views.token.tolist()) == region
        assert int((views.view == 0).sum()) == 9
        inside = at[sorted(region)]
        assert (inside.amax(0) - inside.amin(0)).max() <= 15  # at an edge it is longer
        apart.add(min(region))
        whole = draw(slide, ["s"], shares, seed, scale, region=n)
        assert torch.equal(whole.token, draw(slide, ["s"], shares, seed, scale).token)
    assert len(apart) > 10


@pytest.mark.parametrize("modality", [Modality.TEXT, Modality.SIGNAL])
def test_a_view_in_time_is_one_stretch(modality: Modality) -> None:
    tokens, views = drawn(modality, {"a": 1, "b": 1}, [(0.3, 0.6)] * 8)
    for number, record in enumerate(views.record.tolist()):
        times = tokens.position[views.token[views.view == number], 3]
        left_out = tokens.position[tokens.record == record, 3]
        within = (left_out > times.min()) & (left_out < times.max())
        assert int(within.sum()) == int(((times > times.min()) & (times < times.max())).sum())


@pytest.mark.parametrize("modality", [Modality.TABLE, Modality.OMICS])
def test_where_there_is_no_place_any_few_make_a_view(modality: Modality) -> None:
    tokens, views = drawn(modality, {"a": 1}, [(0.4, 0.4)] * 300)
    n, size = len(tokens.record), int((views.view == 0).sum())
    often = torch.bincount(views.token, minlength=n)
    expected = 300 * size / n
    assert ((often - expected).abs() < 5 * (expected * (1 - size / n)) ** 0.5).all()  # five standard deviations


def test_a_records_views_depend_on_the_seed_and_on_itself_alone() -> None:
    shares = [(0.4, 1.0), (0.05, 0.4)]
    tokens, views = drawn(Modality.VOLUME, {"a": 1, "b": 2, "c": 1}, shares)
    of = lambda t, v, number: t.position[v.token[v.view == number]]
    other, later = drawn(Modality.VOLUME, {"c": 1, "z": 2, "a": 1}, shares)
    for mine, theirs in ((0, 3), (3, 0), (4, 7), (7, 4)):  # a's and c's, the first and the second view of each
        assert torch.equal(of(tokens, views, mine), of(other, later, theirs))
    _, same = drawn(Modality.VOLUME, {"a": 1, "b": 2, "c": 1}, shares)
    _, another = drawn(Modality.VOLUME, {"a": 1, "b": 2, "c": 1}, shares, seed=1)
    assert torch.equal(views.token, same.token)
    assert views.token.tolist() != another.token.tolist()


def test_a_record_of_one_token_has_no_views() -> None:
    tokens, ids, scale = embedded(Modality.IMAGE, {"a": 1, "b": 1})
    few = tokens.record != 0
    few[3] = True
    kept = select(tokens, few)
    assert draw(kept, ids, [(0.5, 0.5)] * 2, 0, scale).record.tolist() == [1, 1]
    none = draw(select(tokens, few & False), ids, [(0.5, 0.5)], 0, scale)
    assert (len(none.token), len(none.record)) == (0, 0)
