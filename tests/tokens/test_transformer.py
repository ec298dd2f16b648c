"""The one Transformer is the literature's: parity with torch's own layer, whatever the lengths, the kernel and the precision."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polyclinic.tokens import attention
from polyclinic.tokens.layout import Layout
from polyclinic.tokens.transformer import Transformer

WIDTH, DEPTH, HEADS = 48, 3, 4


def groups(lengths: list[int]) -> Tensor:
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def reference() -> nn.TransformerEncoder:
    """Torch's own, pre-norm, with the weights of trained networks' size."""
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
    whole = nn.TransformerEncoder(layer, DEPTH, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
    for p in whole.parameters():
        nn.init.normal_(p, std=0.15)
    return whole


def ours(theirs: nn.TransformerEncoder) -> Transformer:
    names = {
        "self_attn.in_proj_": "attention.qkv.", "self_attn.out_proj.": "attention.out.", "linear1.": "up.", "linear2.": "down.",
        "layers.": "blocks.",
    }  # fmt: skip
    state = {}
    for name, value in theirs.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        state[name] = value
    model = Transformer(WIDTH, DEPTH, HEADS)
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("fused_from", [1, 10**9], ids=["fused kernel", "products"])
@pytest.mark.parametrize("lengths", [[7, 7, 7], [3, 40, 17, 1, 33]], ids=["one length", "mixed"])
def test_parity_with_torchs_encoder(lengths: list[int], fused_from: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "FUSED_FROM", fused_from)
    theirs = reference()
    model = ours(theirs)
    inside = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    padded = torch.randn(*inside.shape, WIDTH, requires_grad=True)
    packed = padded.detach()[inside].requires_grad_()
    wanted = theirs(padded, src_key_padding_mask=~inside)[inside]
    found = model(packed, Layout.of(groups(lengths)))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    pull = torch.randn_like(found)
    (found * pull).sum().backward()
    (wanted * pull).sum().backward()
    assert padded.grad is not None
    torch.testing.assert_close(packed.grad, padded.grad[inside], atol=1e-4, rtol=1e-4)
    mine = dict(model.named_parameters())
    torch.testing.assert_close(
        mine["blocks.0.attention.qkv.weight"].grad,
        dict(theirs.named_parameters())["layers.0.self_attn.in_proj_weight"].grad,
        atol=1e-4,
        rtol=1e-4,
    )


def test_tokens_of_a_sequence_have_no_order() -> None:
    model, lengths = Transformer(WIDTH, DEPTH, HEADS), [5, 19]
    x, layout = torch.randn(24, WIDTH), Layout.of(groups(lengths))
    order = torch.cat([torch.randperm(5), 5 + torch.randperm(19)])
    torch.testing.assert_close(model(x[order], layout), model(x, layout)[order], atol=1e-5, rtol=0)


def test_bfloat16_stays_near_float32() -> None:
    lengths = [3, 40, 17]
    x, layout, model = torch.randn(60, WIDTH), Layout.of(groups(lengths)), Transformer(WIDTH, DEPTH, HEADS)
    exact = model(x, layout)
    with torch.autocast("cpu", torch.bfloat16):
        near = model(x, layout)
    assert F.cosine_similarity(exact, near.float(), dim=1).min() > 0.999
    near.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in model.parameters())
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_the_streams_size_at_the_start_does_not_grow_with_depth() -> None:
    # Radford et al. 2019, section 2.3: residual branches are initialised by the depth.
    x, layout = torch.randn(200, 64), Layout.of(groups([50] * 4))
    sizes = []
    for depth in (2, 32):
        model = Transformer(64, depth, 4)
        model.norm = nn.Identity()
        sizes.append(float(model(x, layout).detach().std()))
    assert all(0.9 < size < 1.6 for size in sizes), sizes
    assert abs(sizes[0] - sizes[1]) < 0.2


def test_recomputed_activations_give_the_same_gradients() -> None:
    layout, x = Layout.of(groups([3, 40, 17])), torch.randn(60, WIDTH)
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model, y = Transformer(WIDTH, DEPTH, HEADS, recompute=recompute), x.clone().requires_grad_()
        model(y, layout).square().sum().backward()
        gradients.append([y.grad, *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_inference_mode_gives_what_training_gives() -> None:
    model, layout, x = Transformer(WIDTH, DEPTH, HEADS), Layout.of(groups([3, 40])), torch.randn(43, WIDTH)
    with torch.inference_mode():
        plain = model(x, layout)
    assert torch.equal(plain, model(x, layout).detach())


def test_depth_zero_is_a_norm() -> None:
    x = torch.randn(6, WIDTH)
    torch.testing.assert_close(Transformer(WIDTH, 0, HEADS)(x, Layout.of(groups([2, 4]))), F.layer_norm(x, (WIDTH,)))


def test_a_token_hears_every_other_of_its_sequence() -> None:
    model, x = Transformer(WIDTH, 1, HEADS), torch.randn(7, WIDTH, requires_grad=True)
    answer = model(x, Layout.of(groups([3, 4])))
    for out, into in itertools.product(range(7), range(7)):
        (gradient,) = torch.autograd.grad(answer[out, 0], x, retain_graph=True)
        assert bool((gradient[into] != 0).any()) == ((out < 3) == (into < 3))
