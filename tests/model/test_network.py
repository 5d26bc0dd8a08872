"""The network: tensor names on disk, shapes of outputs, and gradients."""

import pytest
import torch

from model.checkpoint import build_empty
from model.network import SigPooling, VilampNetwork, pool_patches, published_name, published_tensors
from tests.support.tiny import make_config


def test_tensors_have_the_published_names() -> None:
    assert published_name("vision_tower.post_layernorm.bias") == (
        "model.vision_tower.vision_tower.vision_model.post_layernorm.bias"
    )
    assert published_name("language_model.model.norm.weight") == "model.norm.weight"
    assert published_name("language_model.lm_head.weight") == "lm_head.weight"
    assert published_name("composer.tau") == "model.composer_projector.tau"
    assert published_name("dual_encoder.logit_scale") == "model.frame_selector.model.logit_scale"
    with pytest.raises(KeyError):
        published_name("elsewhere")


def test_vision_tower_leaves_out_its_last_layer() -> None:
    network = VilampNetwork(make_config())
    names = [name for name, _ in published_tensors(network) if "vision_tower" in name and "layers." in name]
    assert {name.split("layers.")[1].split(".")[0] for name in names} == {"0"}


def test_modules_return_documented_shapes() -> None:
    config = make_config()
    network = VilampNetwork(config)
    pictures = torch.rand(3, 3, 28, 28)
    patches = network.vision_features(pictures)
    assert patches.shape == (3, 16, 16)
    assert network.pool(network.project(patches)).shape == (3, config.keyframe_tokens, 32)
    assert network.embed_images(pictures).shape == (3, 16)


def test_text_after_the_end_token_is_ignored() -> None:
    network = VilampNetwork(make_config()).eval()
    end = network.config.dual_encoder.eos_token_id
    ids = torch.tensor([[558, 5, 6, end]])
    padded = torch.tensor([[558, 5, 6, end, end, end], [558, 9, end, end, end, end]])
    torch.testing.assert_close(network.embed_texts(padded)[0], network.embed_texts(ids)[0], atol=1e-6, rtol=0)


def test_every_parameter_gets_a_gradient() -> None:
    network = VilampNetwork(make_config())
    assert isinstance(network.composer, SigPooling)
    patches = network.project(network.vision_features(torch.rand(2, 3, 28, 28)))
    asked = network.composer.linear_q(network.embed_texts(torch.tensor([[558, 4, 559]])))
    scores = (network.composer.linear_iq(patches) * asked).sum(-1)
    scores = scores - (network.composer.linear_k(patches[:1]) * network.composer.linear_ik(patches)).sum(-1)
    merged = (torch.softmax(scores / network.composer.tau, -1)[..., None] * patches).sum(1)
    sequence = torch.cat([merged, network.image_newline[None]])
    network.language_model(inputs_embeds=sequence[None]).logits.square().mean().backward()
    network.embed_images(torch.rand(2, 3, 28, 28)).square().mean().backward()
    # The published format has tensors that the forward pass does not use.
    idle = {
        "vision_tower.post_layernorm.weight",
        "vision_tower.post_layernorm.bias",
        "dual_encoder.logit_scale",
        "language_model.model.embed_tokens.weight",
    }
    assert {name for name, weight in network.named_parameters() if weight.grad is None} == idle


def test_tied_embeddings_are_one_tensor_and_stored_once() -> None:
    from dataclasses import replace

    config = make_config()
    network = VilampNetwork(replace(config, language=replace(config.language, tie_word_embeddings=True)))
    assert network.language_model.lm_head.weight is network.language_model.model.embed_tokens.weight
    assert "lm_head.weight" not in dict(published_tensors(network))


def test_network_on_the_meta_device_has_real_buffers() -> None:
    network = build_empty(make_config())
    assert all(weight.is_meta for weight in network.parameters())
    whole = dict(VilampNetwork(make_config()).named_buffers())
    for name, buffer in network.named_buffers():
        torch.testing.assert_close(buffer, whole[name])


@pytest.mark.parametrize(
    ("mode", "stride", "side", "pooled"),
    [("bilinear", 2, 27, 14), ("bilinear", 3, 8, 4), ("average", 2, 27, 13), ("max", 3, 8, 2), ("none", 2, 5, 5)],
)
def test_pooled_grid_sizes(mode: str, stride: int, side: int, pooled: int) -> None:
    from dataclasses import replace

    assert pool_patches(torch.rand(2, side**2, 4), mode, stride).shape == (2, pooled**2, 4)  # type: ignore[arg-type]
    config = make_config()
    image = replace(config.vision.image, image_size=side, patch_size=1)
    sized = make_config(vision=replace(config.vision, image=image), pooling=mode, pool_stride=stride)
    assert sized.keyframe_tokens == pooled**2


def test_patch_count_must_be_a_square() -> None:
    with pytest.raises(ValueError, match="no square"):
        pool_patches(torch.rand(1, 12, 4), "bilinear", 2)
