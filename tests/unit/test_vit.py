"""Vision transformers whose blocks can be watched."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from system.backbones.dinov2 import load_packaged_dinov2
from system.backbones.dinov2_layout import to_timm, to_transformers, transformers_config
from system.backbones.loading import DINOV2
from system.backbones.runtime import Runtime
from system.backbones.vit import (
    block_features,
    build_vit,
    load_vit,
    normalisation_metadata,
    normalise,
    pad_to_patch,
    set_normalisation,
    twin,
    vit_facts,
    vit_hash,
)
from system.errors import ConfigError, ModelError


@pytest.fixture(scope="module")
def dinov2():
    return load_vit(DINOV2)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a small ViT with weights of a file."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("vit") / "small.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), file)
    return f"timm:test_vit@{file}"


def pictures(*size: int) -> torch.Tensor:
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_features_equal_those_of_transformers_at_sizes_other_than_the_native_one(dinov2):
    images = pictures(2, 224, 224, 3)
    theirs = load_packaged_dinov2(Runtime()).encode_blocks(images, [9, 0, 3])
    with torch.no_grad():
        ours = block_features(dinov2, normalise(images, vit_facts(dinov2)), [9, 0, 3])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_weights_go_to_transformers_and_back_unchanged(dinov2):
    weights = dinov2.state_dict()
    back = to_timm(to_transformers(weights))
    assert set(back) == set(weights) and all(torch.equal(back[name], weights[name]) for name in weights)
    config = transformers_config(weights, 6)
    assert (config["hidden_size"], config["num_hidden_layers"], config["image_size"]) == (384, 12, 518)
    with pytest.raises(ModelError, match=r"norm\.bias is missing"):
        to_transformers({name: tensor for name, tensor in weights.items() if name != "norm.bias"})


def test_blocks_beyond_the_last_are_not_computed_and_the_order_is_the_callers(small: str):
    model = load_vit(small)
    called: list[int] = []
    for n, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, n=n: called.append(n))
    images = normalise(pictures(1, 48, 32, 3), vit_facts(model))
    late, early = block_features(model, images, [3, 1])
    assert called == [0, 1, 2, 3] and late.shape == early.shape == (1, model.embed_dim, 3, 2)
    assert torch.equal(early, block_features(model, images, [1])[0])


def test_features_are_those_that_timm_gives_at_a_size_of_its_own(small: str):
    model = load_vit(small)
    size = model.patch_embed.img_size
    images = normalise(pictures(1, *size, 3), vit_facts(model))
    theirs = model.forward_intermediates(images, indices=[2], output_fmt="NCHW", intermediates_only=True)
    torch.testing.assert_close(block_features(model, images, [2]), list(theirs), rtol=1e-5, atol=1e-5)


def test_a_size_that_the_patch_does_not_divide_is_refused_with_the_nearest_or_padded(dinov2):
    images = normalise(pictures(1, 60, 80, 3), vit_facts(dinov2))
    with pytest.raises(ConfigError, match=r"60x80: expected multiples of the patch of 14 pixels, e\.g\. 56x84"):
        block_features(dinov2, images, [0])
    padded = pad_to_patch(images, 14)
    assert padded.shape[2:] == vit_facts(dinov2).padded(60, 80) == (70, 84)
    assert torch.equal(padded[..., :60, :80], images) and not padded[..., 60:, :].any()


def test_a_block_that_the_tower_lacks_is_named(dinov2):
    for blocks in ([3, 12], [-1], []):
        with pytest.raises(ConfigError, match=r"each in 0\.\.11"):
            block_features(dinov2, torch.zeros(1, 3, 14, 14), blocks)


def test_the_hash_tells_weights_apart_and_a_twin_shares_them(small: str):
    model = load_vit(small)
    other = twin(model)
    assert vit_hash(other) == vit_hash(model) == vit_hash(load_vit(small))
    assert other.blocks[0].attn.qkv.weight.data_ptr() == model.blocks[0].attn.qkv.weight.data_ptr()
    with torch.no_grad():
        model.norm.bias += 1
    assert vit_hash(load_vit(small)) != vit_hash(model)


def test_a_twin_sees_pictures_as_its_weights_do_and_not_as_its_architecture():
    model, untagged = (build_vit(f"vit_small_patch16_224{tag}", device="meta") for tag in (".dino", ""))
    assert vit_facts(twin(model)) == vit_facts(model)
    assert vit_facts(model).mean != vit_facts(untagged).mean


def test_what_weights_were_normalised_by_goes_with_them_through_a_file(small: str, tmp_path: Path):
    model = load_vit(small)
    plain = vit_facts(model)
    set_normalisation(model, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    facts = vit_facts(model)
    assert (facts.mean, facts.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    save_file(model.state_dict(), tmp_path / "w.safetensors", metadata=normalisation_metadata(facts))
    assert vit_facts(load_vit(f"timm:{facts.architecture}@{tmp_path}/w.safetensors")) == facts
    assert vit_facts(load_vit(small)) == plain, "timm's own table stays as it is"
    save_file(model.state_dict(), tmp_path / "bad.safetensors", metadata={"mean": "[", "std": "["})
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_vit(f"timm:test_vit@{tmp_path}/bad.safetensors")


def test_what_cannot_be_loaded_says_why(tmp_path: Path):
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    cases = [
        (ConfigError, "dinov9", "unknown backbone 'dinov9'"),
        (ConfigError, "timm:no_such_vit@x.safetensors", "timm knows no model"),
        (ConfigError, "timm:test_vit@weights.pth", "expected weights in a .safetensors file"),
        (ConfigError, f"timm:resnet18@{tmp_path}/bad.safetensors", "expected a plain vision transformer"),
        (ModelError, f"timm:test_vit@{tmp_path}/bad.safetensors", "cannot be loaded"),
        (ModelError, f"timm:test_vit@{tmp_path}/none.safetensors", "cannot be loaded"),
    ]
    for kind, name, words in cases:
        with pytest.raises(kind, match=words):
            load_vit(name)
