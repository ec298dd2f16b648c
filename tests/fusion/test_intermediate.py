"""Each style against plain loops over patients, modalities, heads and queries, which know nothing of layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from polyclinic.fusion import Fusion, Intermediate
from polyclinic.schema import Modality, Tokens

WIDTH, HEADS = 16, 2
IMAGE, VOLUME, TEXT = Modality.IMAGE, Modality.VOLUME, Modality.TEXT
HAS = [{IMAGE: 3, TEXT: 2}, {}, {TEXT: 5}, {IMAGE: 1, VOLUME: 20, TEXT: 3}, {VOLUME: 2, TEXT: 1}]
"""All that there is, nothing, one modality, two."""


def built(style: Any, **fields: Any) -> Fusion:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Intermediate(style=style, heads=HEADS, **fields).build(WIDTH, (IMAGE, VOLUME, TEXT)).eval()


def bag(has: list[dict[Modality, int]] = HAS) -> Tokens:
    rows = [(p, m.number) for p, own in enumerate(has) for m, count in own.items() for _ in range(count)]
    patient, modality = (torch.tensor([row[k] for row in rows], dtype=torch.int64) for k in (0, 1))
    values = torch.randn(len(rows), WIDTH, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([sum(own.values()) for own in has])
    return Tokens(values, patient, modality, patient, torch.zeros(len(rows), 4), torch.zeros(len(rows)), lengths)


def looked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What queries (n d) find in keys (m d): head by head and query by query (Vaswani et al. 2017, equation 1)."""
    e, rows = WIDTH // HEADS, []
    for query in q:
        heads = []
        for h in range(HEADS):
            part = slice(h * e, (h + 1) * e)
            weights = torch.softmax(k[:, part] @ query[part] / e**0.5, 0)
            heads.append(weights @ v[:, part])
        rows.append(torch.cat(heads))
    return torch.stack(rows)


def block(module: Any, x: Tensor, context: Tensor | None = None) -> Tensor:
    """A pre-norm block on one sequence (n d); without a context it does not look for one."""
    y = x + module.attention.out(looked(*module.attention.qkv(module.norm1(x)).split(WIDTH, 1)))
    if context is not None:
        keys, values = module.cross.kv(F.layer_norm(context, (WIDTH,))).split(WIDTH, 1)
        y = y + module.cross.out(looked(module.cross.query(module.norm_cross(y)), keys, values))
    return y + module.down(F.gelu(module.up(module.norm2(y))))


def patients(tokens: Tokens) -> list[tuple[int, dict[Modality, Tensor]]]:
    """Each patient's tokens of each modality."""
    found = []
    for patient in range(len(tokens.lengths)):
        own = tokens.patient == patient
        found.append((patient, {m: tokens.values[own & (tokens.modality == m.number)] for m in HAS[patient]}))
    return found


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def same(fusion: Fusion, expected: Any) -> None:
    """The fusion gives what `expected` makes of each patient's tokens: its tokens by modality, and its vector (its tokens' mean if
    None)."""
    tokens = bag()
    fused = fusion(tokens)
    for (patient, own), (_, found) in zip(patients(tokens), patients(fused.tokens), strict=True):
        if not own:
            assert not fused.pooled[patient].any()
            continue
        values, vector = expected(own)
        for m in own:
            close(found[m], values[m])
        mean = torch.stack([x.mean(0) for x in values.values()]).mean(0)
        close(fused.pooled[patient], mean if vector is None else vector)


def apart(own: dict[Modality, Tensor], values: Tensor) -> dict[Modality, Tensor]:
    return dict(zip(own, values.split([len(x) for x in own.values()]), strict=True))


def test_self_attention_is_the_trunk_on_all_of_a_patients_tokens() -> None:
    fusion: Any = built("self_attention")

    def expected(own: dict[Modality, Tensor]) -> tuple[dict[Modality, Tensor], None]:
        x = torch.cat([*own.values()])
        for b in fusion.trunk.blocks:
            x = block(b, x)
        return apart(own, fusion.trunk.norm(x)), None

    same(fusion, expected)


def test_class_tokens_are_more_tokens_whose_mean_answers() -> None:
    fusion: Any = built("class_tokens", latents=4)

    def expected(own: dict[Modality, Tensor]) -> tuple[dict[Modality, Tensor], Tensor]:
        x = torch.cat([*own.values(), fusion.latents])
        for b in fusion.trunk.blocks:
            x = block(b, x)
        x = fusion.trunk.norm(x)
        return apart(own, x[:-4]), x[-4:].mean(0)

    same(fusion, expected)


def test_cross_attention_looks_at_what_the_others_were_before_the_block() -> None:
    fusion: Any = built("cross_attention")

    def expected(own: dict[Modality, Tensor]) -> tuple[dict[Modality, Tensor], None]:
        x = dict(own)
        for n in range(2):
            before = dict(x)
            for m in own:
                others = [before[o] for o in own if o is not m]
                context = torch.cat(others) if others else None
                x[m] = block(fusion.trunks[m.value].blocks[n], before[m], context)
        return {m: fusion.trunks[m.value].norm(x[m]) for m in own}, None

    same(fusion, expected)


@pytest.mark.parametrize(("depth", "latents"), [(2, 4), (3, 1)])
def test_a_bottleneck_is_the_mean_of_what_the_modalities_made_of_it(depth: int, latents: int) -> None:
    fusion: Any = built("bottleneck", depth=depth, latents=latents)

    def expected(own: dict[Modality, Tensor]) -> tuple[dict[Modality, Tensor], None]:
        x, between = dict(own), fusion.latents
        for n in range(depth):
            said = []
            for m in own:
                both = block(fusion.trunks[m.value].blocks[n], torch.cat([x[m], between]))
                x[m] = both[:-latents]
                said.append(both[-latents:])
            between = torch.stack(said).mean(0)
        return {m: fusion.trunks[m.value].norm(x[m]) for m in own}, None

    same(fusion, expected)


def test_perceivers_latents_look_once_at_the_tokens_and_then_at_each_other() -> None:
    fusion: Any = built("perceiver", latents=4)

    def expected(own: dict[Modality, Tensor]) -> tuple[dict[Modality, Tensor], Tensor]:
        x = fusion.read.norm(block(fusion.read.blocks[0], fusion.latents, torch.cat([*own.values()])))
        for b in fusion.trunk.blocks:
            x = block(b, x)
        return own, fusion.trunk.norm(x).mean(0)

    same(fusion, expected)


@pytest.mark.parametrize("style", ["self_attention", "class_tokens", "cross_attention", "bottleneck", "perceiver"])
def test_a_batch_in_which_nobody_has_anything(style: str) -> None:
    fused = built(style)(bag([{}, {}]))
    assert fused.pooled.tolist() == [[0.0] * WIDTH] * 2
    assert not fused.present.any()
    assert len(fused.tokens.values) == 0


def test_modalities_hear_each_other_through_the_bottleneck_in_the_second_block() -> None:
    """And not before: a bottleneck of one block is two models side by side, and is refused."""
    tokens = bag([{IMAGE: 2, TEXT: 2}])
    tokens.values.requires_grad_()
    for depth, heard in ((1, False), (2, True)):
        fusion: Any = built("bottleneck", depth=2)
        fusion.depth = depth
        image = fusion(tokens).tokens.values[:2].square().sum()
        assert bool(torch.autograd.grad(image, tokens.values)[0][2:].any()) is heard
    with pytest.raises(ValidationError, match=r"a bottleneck of depth 1: .* at least 2"):
        Intermediate(style="bottleneck", depth=1)


def test_latents_are_refused_where_a_style_has_none_and_written_out_where_it_has() -> None:
    with pytest.raises(ValidationError, match=r"4 latents, and cross_attention has none .*perceiver"):
        Intermediate(style="cross_attention", latents=4)
    for style, latents in (("class_tokens", 8), ("bottleneck", 8), ("perceiver", 8), ("self_attention", None)):
        spec = Intermediate.model_validate({"style": style})
        assert spec.model_dump()["latents"] == latents
        assert Intermediate.model_validate(spec.model_dump()) == spec
