"""Somebody's network as an encoder: its hidden states to the last bit, packed, placed, frozen or not."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import snapshots
from polyclinic.harmonise import Fingerprint, harmonise
from polyclinic.models.adapters import Lora, additions, fold, learned, put, settle
from polyclinic.schema import Modality, Payload, Ragged, Record
from polyclinic.tokens import PretrainedImage, PretrainedText, phantom
from polyclinic.tokens.image import NOMINAL_SIDE_MM
from polyclinic.tokens.pretrained import IMAGE, TEXT, Backbone, shown
from polyclinic.tokens.snapshot import HASHES, SnapshotError, network

every_image = pytest.mark.parametrize("name", snapshots.IMAGE)
every_text = pytest.mark.parametrize("name", snapshots.TEXT)
UNEVEN = torch.arange(snapshots.WIDTH)
"""Squares that all count alike are the same for every token after a norm."""
HALVES = {
    "image": {"clip": "CLIPVision", "siglip": "SiglipVision"},
    "text": {"clip": "CLIPText", "siglip": "SiglipText"},
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a network is told."""

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is downloaded")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)


def reference(name: str, half: str) -> Any:
    """The network as transformers itself opens it."""
    import transformers

    title = HALVES[half].get(name) or {**snapshots.IMAGE, **snapshots.TEXT}[name][0]
    return getattr(transformers, f"{title}Model").from_pretrained(snapshots.folder(name)).eval()


def images(count: int = 2, size: int = snapshots.SIZE) -> Ragged:
    spacing = torch.tensor([[0.5, 0.25]]).repeat(count, 1)
    values = torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(0))
    where = torch.arange(count)
    return Ragged(values, where, torch.zeros(count), spacing, count, [str(n) for n in range(count)])


def notes(*lengths: int) -> Ragged:
    draw = torch.Generator().manual_seed(0)
    values = [torch.randint(5, snapshots.VOCABULARY, (n,), generator=draw) for n in lengths]
    m = len(lengths)
    return Ragged(values, torch.arange(m), torch.zeros(m), None, m, [str(n) for n in range(m)])


def image(name: str, **fields: Any) -> Any:
    return PretrainedImage(folder=str(snapshots.folder(name)), **fields)


def text(name: str, **fields: Any) -> Any:
    return PretrainedText(folder=str(snapshots.folder(name)), **fields)


def as_shown(values: Tensor) -> Tensor:
    """As a screen shows it and the makers' preprocessor takes it: 0 to 255, then its arithmetic."""
    spread = values.amax((1, 2, 3), keepdim=True) - values.amin((1, 2, 3), keepdim=True)
    pixels = 255 * (values - values.amin((1, 2, 3), keepdim=True)) / spread
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (snapshots.MEAN, snapshots.STD))
    return (pixels.repeat(1, 3, 1, 1) / 255 - mean) / std


@every_image
def test_a_folder_tells_what_a_recipe_leaves_out(name: str) -> None:
    spec = image(name)
    assert (spec.width, spec.size, spec.patch, spec.depth) == (snapshots.WIDTH, snapshots.SIZE, snapshots.PATCH, 0)
    assert spec.standard().size == snapshots.SIZE


@every_text
def test_a_note_has_as_many_words_as_the_network_takes(name: str) -> None:
    assert (text(name).width, text(name).words) == (snapshots.WIDTH, snapshots.WORDS)
    with pytest.raises(SnapshotError, match="at most 24"):
        text(name, words=25).build(Fingerprint())


@pytest.mark.parametrize("layer", [None, 0, 1, -1])
@every_image
def test_patches_are_the_networks_hidden_states(name: str, layer: int | None) -> None:
    ragged, theirs = images(), reference(name, "image")
    tokens = image(name, layer=layer).build(Fingerprint()).eval()(ragged)
    with torch.no_grad():
        answer = theirs(pixel_values=as_shown(ragged.values), output_hidden_states=True)  # type: ignore[arg-type]
    hidden = answer.last_hidden_state if layer is None else answer.hidden_states[layer]
    patches = (snapshots.SIZE // snapshots.PATCH) ** 2
    torch.testing.assert_close(tokens.values, hidden[:, -patches:].flatten(0, 1), atol=1e-5, rtol=1e-5)


@every_image
def test_patches_lie_where_they_were(name: str) -> None:
    encoder = image(name).build(Fingerprint()).eval()
    position = encoder(images(1)).position
    corner = (snapshots.SIZE - snapshots.PATCH) / 2  # pixels from the centre to the middle of the first patch
    torch.testing.assert_close(position[0], torch.tensor([-corner * 0.25, -corner * 0.5, 0, 0]))
    bare = images(1)
    bare.spacing = None
    torch.testing.assert_close(encoder(bare).position[-1, 0].item(), corner * NOMINAL_SIDE_MM / snapshots.SIZE)


@every_image
def test_a_class_token_lies_at_the_centre(name: str) -> None:
    spec = image(name, class_token=True)
    if name == "siglip":
        with pytest.raises(SnapshotError, match="class_token"):
            spec.build(Fingerprint())
        return
    encoder, plain = spec.build(Fingerprint()).eval(), image(name).build(Fingerprint()).eval()
    ragged = images()
    tokens, patches = encoder(ragged), plain(ragged)
    first = torch.zeros(len(tokens.values), dtype=torch.bool)
    first[:: len(first) // 2] = True
    theirs = reference(name, "image")(pixel_values=as_shown(ragged.values)).last_hidden_state  # type: ignore[arg-type]
    torch.testing.assert_close(tokens.values[first], theirs[:, 0], atol=1e-5, rtol=1e-5)
    assert not tokens.position[first].any()
    assert torch.equal(tokens.values[~first], patches.values)
    assert (encoder.patch, plain.patch) == ((), (snapshots.PATCH,) * 2)  # only a grid can be segmented


@every_image
def test_another_size_interpolates_the_places(name: str) -> None:
    ragged = images(1, 48)
    tokens = image(name, size=48).build(Fingerprint()).eval()(ragged)
    options = {"interpolate_pos_encoding": True} if name in ("vit", "clip", "siglip") else {}
    theirs = reference(name, "image")(pixel_values=as_shown(ragged.values), **options).last_hidden_state  # type: ignore[arg-type]
    torch.testing.assert_close(tokens.values, theirs[0, -36:], atol=1e-5, rtol=1e-5)


def test_a_picture_reaches_the_network_as_its_preprocessor_would_show_it() -> None:
    draw = np.random.default_rng(0)
    drawn = draw.integers(0, 256, (1, snapshots.SIZE, snapshots.SIZE)).astype(np.float32)
    flat = np.sort(drawn.ravel())
    low, high = np.percentile(flat, [1, 99])
    spec = image("vit")
    record = Record("a", "p", None, Modality.IMAGE, "XR", "a.png")
    payload = harmonise(Payload(drawn), record, spec.standard(), Fingerprint())
    encoder = spec.build(Fingerprint())
    pixels = encoder.pixels(shown(torch.from_numpy(payload.array)[None]))[0]
    mean, std = (np.array(v)[:, None, None] for v in (snapshots.MEAN, snapshots.STD))
    expected = (np.clip((drawn - low) / (high - low), 0, 1) - mean) / std
    np.testing.assert_allclose(pixels.numpy(), expected, atol=1e-4)
    assert torch.equal(
        encoder.pixels(shown(torch.full((1, 1, 4, 4), 7.0))), encoder.pixels(torch.zeros(1, 1, 4, 4))
    )  # flat


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"do_normalize": False}, 1.0),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3}, 1.0),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, 1.0),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1.0], "image_std": [1.0]}, 1.0),
    ],
)
def test_the_makers_arithmetic_is_followed(about: dict[str, Any], expected: float, tmp_path: Path) -> None:
    shutil.copytree(snapshots.folder("vit"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    encoder = PretrainedImage(folder=str(tmp_path)).build(Fingerprint())
    values = torch.rand(1, 1, snapshots.SIZE, snapshots.SIZE)
    assert encoder.pixels(shown(values)).max().item() == pytest.approx(expected)


@pytest.mark.parametrize("layer", [None, 1])
@every_text
def test_words_are_the_networks_hidden_states(name: str, layer: int | None) -> None:
    """Notes of one length, of lengths that share a bucket, and of lengths that do not: each as if it were alone."""
    theirs, encoder = reference(name, "text"), text(name, layer=layer).build(Fingerprint()).eval()
    for lengths in ((9, 9), (5, 9, 12), (3, 24, 20, 7)):
        ragged = notes(*lengths)
        tokens = encoder(ragged)
        for number, words in enumerate(ragged.values):
            with torch.no_grad():
                answer = theirs(input_ids=words[None], output_hidden_states=True)
            hidden = answer.last_hidden_state if layer is None else answer.hidden_states[layer]
            mine = tokens.record == number
            torch.testing.assert_close(tokens.values[mine], hidden[0], atol=1e-5, rtol=1e-5)
            assert tokens.position[mine, 3].tolist() == list(range(len(words)))


@every_text
def test_whether_a_word_knows_what_comes_after_it(name: str) -> None:
    encoder, ragged = text(name).build(Fingerprint()).eval(), notes(9)
    before = encoder(ragged).values
    ragged.values[0][-1] += 1 if ragged.values[0][-1] < 100 else -1
    changed = (encoder(ragged).values != before).any(1)
    assert changed[-1]
    assert changed[:-1].any() == (not encoder.causal)


@every_text
def test_a_note_is_cut_as_the_networks_own_tokenizer_cuts_it(name: str) -> None:
    from transformers import AutoTokenizer

    spec = text(name, words=12)
    tokenizer = (snapshots.folder(name) / "tokenizer.json").read_text()
    theirs: Any = AutoTokenizer.from_pretrained(snapshots.folder(name))
    record = Record("a", "p", None, Modality.TEXT, "note", "a.txt")
    for note in (*snapshots.NOTES, "", "Ödem", "CT: 12.5 mm"):
        payload = Payload(np.empty(0, np.int64), text=note)
        made = harmonise(payload, record, spec.standard(), Fingerprint(tokenizer))
        assert made.array.tolist() == theirs(note, truncation=True, max_length=12)["input_ids"]


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"crop_size": {"height": 64, "width": 64}, "size": {"shortest_edge": 72}}, 64),  # DINOv2
        ({"crop_size": 64, "size": 72}, 64),  # CLIP of old
        ({"size": 64}, 64),  # ViT of old
        ({"size": {"shortest_edge": 72}}, snapshots.SIZE),
        ({"size": {"height": 72, "width": 64}}, snapshots.SIZE),
        ({}, snapshots.SIZE),
    ],
)
def test_an_image_is_as_large_as_the_makers_cropped_it(about: dict[str, Any], expected: int, tmp_path: Path) -> None:
    shutil.copytree(snapshots.folder("dinov2"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    assert image("dinov2").model_validate({"folder": str(tmp_path)}).size == expected


def test_weights_of_another_head_are_left(tmp_path: Path) -> None:
    """What is published is often a network with a head of its pretraining, without the pooler that we do not read."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        whole = transformers.BertForMaskedLM(transformers.BertConfig(**snapshots.TEXT["bert"][1])).eval()
    whole.save_pretrained(tmp_path)
    shutil.copy(snapshots.folder("bert") / "tokenizer.json", tmp_path)
    ragged = notes(8)
    tokens = PretrainedText(folder=str(tmp_path)).build(Fingerprint())(ragged)
    expected = whole(input_ids=ragged.values[0][None], output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(tokens.values, expected[0], atol=1e-5, rtol=1e-5)


def test_shards_and_half_precision_are_read(tmp_path: Path) -> None:
    made = reference("qwen2", "text").to(torch.bfloat16)
    made.save_pretrained(tmp_path, max_shard_size="4KB")
    shutil.copy(snapshots.folder("qwen2") / "tokenizer.json", tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    spec = PretrainedText(folder=str(tmp_path))
    encoder = spec.build(Fingerprint())
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    spec.keep(tmp_path / "kept")
    again = spec.kept(tmp_path / "kept").build(Fingerprint())
    assert torch.equal(encoder(notes(6)).values, again(notes(6)).values)
    next((tmp_path / "kept").glob("*-00001-*.safetensors")).unlink()
    with pytest.raises(SnapshotError, match="without model-00001"):
        spec.kept(tmp_path / "kept").build(Fingerprint())


@pytest.mark.parametrize("name", ["vit", "bert", "qwen2"])
def test_a_frozen_network_learns_nothing_and_is_saved_once(name: str) -> None:
    spec = image(name) if name in snapshots.IMAGE else text(name)
    encoder = spec.build(Fingerprint()).train()
    ragged = images() if name in snapshots.IMAGE else notes(4, 6)
    before = {k: v.clone() for k, v in encoder.backbone.named_parameters()}
    adam = torch.optim.AdamW([p for p in encoder.parameters() if p.requires_grad], lr=0.1)
    encoder(ragged).values.square().mul(UNEVEN).sum().backward()
    adam.step()
    assert not any(p.requires_grad for p in encoder.backbone.parameters())
    assert all(torch.equal(v, before[k]) for k, v in encoder.backbone.named_parameters())
    assert encoder.position.project.weight.any()  # what is ours has learned
    assert not any("backbone" in k for k in encoder.state_dict())
    assert len(list(encoder.backbone.parameters())) > 10  # and still they are counted
    holder = torch.nn.ModuleDict({"a": spec.build(Fingerprint())})
    holder.load_state_dict({f"a.{k}": v for k, v in encoder.state_dict().items()})
    assert torch.equal(holder["a"].eval()(ragged).values, encoder.eval()(ragged).values)
    with pytest.raises(RuntimeError, match="position"):  # it stays strict of what is ours
        holder.load_state_dict({})


@pytest.mark.parametrize("name", ["vit", "dinov2", "clip", "bert", "llama"])
def test_one_that_is_not_frozen_learns(name: str) -> None:
    spec = image(name, frozen=False) if name in snapshots.IMAGE and name != "clip" else text(name, frozen=False)
    encoder = spec.build(Fingerprint()).train()
    ragged = images() if isinstance(spec, PretrainedImage) else notes(4, 6)
    encoder(ragged).values.square().mul(UNEVEN).sum().backward()
    learns = [p for p in encoder.backbone.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in learns)
    assert any(p.grad.any() for p in learns if p.grad is not None)
    assert {k for k in encoder.state_dict() if k.startswith("backbone")}


def test_no_dropout_even_in_training() -> None:
    """BERT's configuration asks for it; its draws would be the world's."""
    encoder = text("bert", frozen=False).build(Fingerprint()).train()
    assert encoder.training
    assert encoder.backbone.config.hidden_dropout_prob > 0
    before = torch.get_rng_state()
    assert torch.equal(encoder(notes(5)).values, encoder(notes(5)).values)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["vit", "dinov2", "siglip", "bert", "distilbert", "llama"])
@pytest.mark.parametrize("frozen", [True, False])
def test_lora_reaches_its_linear_layers(name: str, frozen: bool) -> None:
    spec = image(name, frozen=frozen) if name in snapshots.IMAGE else text(name, frozen=frozen)
    encoder, ragged = spec.build(Fingerprint()).train(), images() if name in snapshots.IMAGE else notes(4, 6)
    before = encoder(ragged).values.detach()
    put(encoder, [Lora(rank=2, alpha=4.0)], 0)
    hosts = [n for n, _, _ in additions(encoder) if ".network." in n]
    own = reference(name, "image" if name in snapshots.IMAGE else "text")
    unread = ("pooler.", "head.")
    linear = [n for n, m in own.named_modules() if isinstance(m, torch.nn.Linear) and not n.startswith(unread)]
    assert len(hosts) == len(linear) >= 8
    assert torch.equal(encoder(ragged).values, before)
    for _ in range(2):  # A's gradient is zero while B is
        adam = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=1e-2)
        encoder(ragged).values.square().mul(UNEVEN).sum().backward()
        adam.step()
        adam.zero_grad()
    settle(encoder)
    after = encoder(ragged).values.detach()
    assert len(learned(encoder)) >= 16
    assert not torch.allclose(after, before)
    fold(encoder)
    torch.testing.assert_close(encoder(ragged).values, after, atol=1e-4, rtol=1e-4)


def test_blocks_of_our_own_may_follow() -> None:
    encoder = image("vit", depth=1, heads=2).build(Fingerprint()).eval()
    tokens = encoder(images())
    assert len(encoder.blocks.blocks) == 1
    assert not torch.equal(tokens.values, encoder.embed(images()).values)


def test_a_copy_is_all_that_is_needed_and_is_known_by_its_hashes(tmp_path: Path) -> None:
    source, kept = tmp_path / "source", tmp_path / "kept"
    snapshots.save("bert", source)
    spec = PretrainedText(folder=str(source))
    spec.keep(kept)
    expected = spec.build(Fingerprint())(notes(7)).values
    shutil.rmtree(source)
    written = PretrainedText.model_validate_json(spec.model_dump_json())  # a run's recipe, where the folder is gone
    assert torch.equal(written.kept(kept).build(Fingerprint())(notes(7)).values, expected)
    assert set(json.loads((kept / HASHES).read_text())) == {"config.json", "tokenizer.json", "model.safetensors"}
    snapshots.save("bert", tmp_path / "other", seed=1)
    shutil.copy(tmp_path / "other/model.safetensors", kept)
    with pytest.raises(SnapshotError, match=r"model\.safetensors, which is not as it was"):
        written.kept(kept).build(Fingerprint())


def broken(tmp_path: Path, name: str = "bert") -> Path:
    place = tmp_path / "snapshot"
    shutil.copytree(snapshots.folder(name), place)
    return place


def refused(folder: Path, **fields: Any) -> str:
    with pytest.raises(SnapshotError) as caught:
        PretrainedText(folder=str(folder), **fields).keep(folder.parent / "kept")
    assert all((caught.value.found, caught.value.expected, caught.value.remedy))
    assert str(folder.name) in caught.value.found
    return str(caught.value)


def test_what_is_no_snapshot_is_refused(tmp_path: Path) -> None:
    assert "no folder" in refused(tmp_path / "nowhere")
    place = broken(tmp_path)
    (place / "config.json").rename(place / "other.json")
    assert "config.json, which is not there" in refused(place)
    (place / "config.json").write_text("{")
    assert "is not JSON" in refused(place)
    (place / "config.json").write_text('{"model_type": "gpt2"}')
    message = refused(place)
    assert "'gpt2'" in message
    assert "bert" in message
    (place / "config.json").write_text('["bert"]')
    assert "a list" in refused(place)
    about = json.loads((snapshots.folder("bert") / "config.json").read_text())
    for wrong in ({"hidden_size": "wide"}, {"num_attention_heads": 3}):
        (place / "config.json").write_text(json.dumps({**about, **wrong}))
        assert "does not open" in refused(place)


def test_an_adapter_without_its_base_is_refused(tmp_path: Path) -> None:
    place = broken(tmp_path)
    (place / "adapter_config.json").write_text('{"base_model_name_or_path": "somewhere"}')
    assert "merge_and_unload" in refused(place)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    place = broken(tmp_path)
    torch.save(reference("bert", "text").state_dict(), place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()
    message = refused(place)
    assert "pytorch_model.bin, which is not safetensors" in message
    assert "save_pretrained" in message
    (place / "pytorch_model.bin").unlink()
    assert "no weights in" in refused(place)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    place = broken(tmp_path)
    about = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**about, "quantization_config": {"quant_method": "bitsandbytes"}}))
    assert "quantised" in refused(place)


def test_code_that_a_folder_brings_is_never_run(tmp_path: Path) -> None:
    place = broken(tmp_path)
    about = json.loads((place / "config.json").read_text())
    about["auto_map"] = {"AutoModel": "modeling_evil.Evil", "AutoConfig": "modeling_evil.EvilConfig"}
    (place / "config.json").write_text(json.dumps(about))
    (place / "modeling_evil.py").write_text("raise SystemExit('run')")
    spec = PretrainedText(folder=str(place))
    spec.keep(tmp_path / "kept")
    assert not (tmp_path / "kept/modeling_evil.py").exists()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    place = broken(tmp_path)
    file = place / "model.safetensors"
    state = load_file(file)
    name = "encoder.layer.1.output.dense.weight"
    save_file({**state, name: torch.zeros(16, 31)}, file, {"format": "pt"})
    message = refused(place)
    assert f"1 weights in {place} of another shape; the first is {name}: (16, 31)" in message
    assert "(16, 32)" in message
    save_file({k: v for k, v in state.items() if k != name}, file, {"format": "pt"})
    assert f"1 weights absent in {place}; the first is {name}" in refused(place)
    file.write_bytes(file.read_bytes()[:2000])
    assert "does not open" in refused(place)


def test_a_tokenizer_of_another_network_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "snapshot"
    snapshots.save("bert", place, vocab_size=200)
    assert "numbered 299" in refused(place)
    (place / "tokenizer.json").write_text("{}")
    with pytest.raises(Exception, match="does not open"):
        PretrainedText(folder=str(place)).keep(tmp_path / "kept")
    (place / "tokenizer.json").unlink()
    with pytest.raises(Exception, match="which is not there"):
        PretrainedText(folder=str(place)).keep(tmp_path / "kept")


def test_fields_that_are_not_the_networks_are_refused() -> None:
    for spec, word in (
        (text("bert", width=32), "`width` 32"), (image("vit", patch=4), "`patch` 4"), (text("bert", layer=3), "layer 3"),
        (text("bert", layer=-4), "layer -4"),
    ):  # fmt: skip
        with pytest.raises(SnapshotError, match=word):
            spec.build(Fingerprint())
    with pytest.raises(ValueError, match="do not fill"):
        image("vit", size=36)
    with pytest.raises(SnapshotError, match="'vit'"):
        text("vit")
    with pytest.raises(SnapshotError, match="'bert'"):
        image("bert")


def test_a_folder_that_does_not_say_how_pixels_are_scaled_is_refused(tmp_path: Path) -> None:
    place = broken(tmp_path, "dinov2")
    about = json.loads((place / "preprocessor_config.json").read_text())
    (place / "preprocessor_config.json").unlink()
    spec = PretrainedImage(folder=str(place))
    with pytest.raises(SnapshotError, match="image_mean"):
        spec.build(Fingerprint())
    (place / "processor_config.json").write_text(
        json.dumps({"image_processor": about})
    )  # as processors of CLIP are saved
    assert spec.build(Fingerprint()).std.flatten().tolist() == pytest.approx(snapshots.STD)
    (place / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5, 0.5], "image_std": [0.0]}))
    with pytest.raises(SnapshotError, match="image_std"):
        spec.build(Fingerprint())


def test_every_architecture_of_the_tables_is_tried() -> None:
    halves = {"clip_vision_model", "siglip_vision_model", "clip_text_model", "siglip_text_model"}
    assert set(IMAGE) - halves == set(snapshots.IMAGE)
    assert set(TEXT) - halves == set(snapshots.TEXT)


@pytest.mark.parametrize(
    ("name", "half"), [("clip", "image"), ("siglip", "image"), ("clip", "text"), ("siglip", "text")]
)
def test_half_of_two_towers_may_stand_alone(name: str, half: str, tmp_path: Path) -> None:
    reference(name, half).save_pretrained(tmp_path)
    for file in ("preprocessor_config.json", "tokenizer.json"):
        shutil.copy(snapshots.folder(name) / file, tmp_path)
    alone: Any = (PretrainedImage if half == "image" else PretrainedText)(folder=str(tmp_path))
    ragged = images() if half == "image" else notes(5, 5)
    whole = image(name) if half == "image" else text(name)
    assert torch.equal(alone.build(Fingerprint())(ragged).values, whole.build(Fingerprint())(ragged).values)


def test_a_backbone_is_copied_with_its_frozen_weights() -> None:
    from copy import deepcopy

    one = Backbone(image("vit"))
    other = deepcopy(one)
    assert other.state_dict() == {}
    other.load_state_dict({})
    pixels = torch.randn(1, 3, snapshots.SIZE, snapshots.SIZE)
    assert torch.equal(one(pixel_values=pixels), other(pixel_values=pixels))


def test_made_up_records_suit_it() -> None:
    for spec in (image("vit"), text("bert")):
        tokens = spec.build(phantom.fingerprint())(phantom.ragged(spec.standard(), {"a": 2, "b": 0}))
        assert tokens.lengths.tolist()[1] == 0


def test_transformers_is_imported_where_it_is_used() -> None:
    """Its import takes longer than `polyclinic --help` may."""
    code = "import sys, polyclinic.adaptation; assert 'transformers' not in sys.modules, 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_weights_are_the_snapshots() -> None:
    theirs = reference("bert", "text").state_dict()
    ours = network(snapshots.folder("bert"), TEXT).state_dict()
    assert theirs.keys() - ours.keys() == {"pooler.dense.weight", "pooler.dense.bias"}
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
