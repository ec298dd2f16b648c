from __future__ import annotations

import torch

from polyclinic.fusion import Intermediate
from polyclinic.schema import Modality, Tokens
from polyclinic.tokens import Layout

WIDTH = 16


def bag(lengths: list[int]) -> Tokens:
    patient = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    n = len(patient)
    values = torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(0))
    modality = torch.full((n,), Modality.TEXT.number)
    return Tokens(values, patient, modality, patient, torch.zeros(n, 4), torch.zeros(n), torch.tensor(lengths))


def test_self_attention_is_the_trunk_on_each_patients_tokens() -> None:
    fusion, tokens = Intermediate(depth=2, heads=2).build(WIDTH).eval(), bag([3, 0, 5])
    fused = fusion(tokens)
    for patient, values in ((0, tokens.values[:3]), (2, tokens.values[3:])):
        alone = fusion.trunk(values, Layout.of(torch.zeros(len(values), dtype=torch.int64)))
        torch.testing.assert_close(fused.pooled[patient], alone.mean(0), atol=1e-5, rtol=1e-5)


def test_latents_are_more_tokens_whose_mean_answers() -> None:
    fusion, tokens = Intermediate(style="latents", latents=4, depth=2, heads=2).build(WIDTH).eval(), bag([3, 0, 5])
    fused = fusion(tokens)
    assert fusion.latents is not None
    for patient, start, stop in ((0, 0, 3), (2, 3, 8)):
        own = torch.cat([tokens.values[start:stop], fusion.latents])
        alone = fusion.trunk(own, Layout.of(torch.zeros(len(own), dtype=torch.int64)))
        torch.testing.assert_close(fused.pooled[patient], alone[-4:].mean(0), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(fused.tokens.values[start:stop], alone[:-4], atol=1e-5, rtol=1e-5)
    assert not fused.pooled[1].any()  # latents alone are nobody


def test_latents_of_a_batch_in_which_nobody_has_anything() -> None:
    fused = Intermediate(style="latents", depth=1, heads=2).build(WIDTH)(bag([0, 0]))
    assert fused.pooled.tolist() == [[0.0] * WIDTH] * 2
    assert not fused.present.any()
