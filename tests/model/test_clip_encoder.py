"""A CLIP folder written by transformers: it encodes and selects frames; a server must write the answers."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from agent.app import Agent
from agent.ask.model import ModelUnusable, load_model
from agent.ask.question import Question
from agent.keep.memory import open_memory
from model.checkpoint import CheckpointError
from model.clip_encoder import ClipEncoder, is_clip
from model.preprocess import relevance_pixels
from tests.support.agents import checkpoint, remember, settings_in
from tests.support.encoders import make_clip
from tests.support.tiny import make_config, make_pictures
from tests.support.vlm_server import Spy, spying


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> ClipEncoder:
    return ClipEncoder.load(folder, name="clip", num_threads=1)


@pytest.fixture(scope="module")
def spy() -> Iterator[Spy]:
    with spying() as spy:
        yield spy


def test_clip_encoder_agrees_with_transformers(folder: Path, encoder: ClipEncoder) -> None:
    pictures = make_pictures(3)
    theirs = CLIPModel.from_pretrained(folder).eval()
    pixels = torch.from_numpy(relevance_pixels(pictures, make_config().dual_encoder.image, whole_frame=True))
    ids, _ = encoder._tokenizer.encode("When did a red car come?")
    with torch.inference_mode():
        vision = theirs.visual_projection(theirs.vision_model(pixel_values=pixels).pooler_output)
        text = theirs.text_projection(theirs.text_model(input_ids=torch.tensor([ids])).pooler_output)[0]
    ours = np.stack([features.embedding for features in encoder.encode(pictures)])
    np.testing.assert_allclose(ours, vision.numpy(), atol=1e-6)
    query = encoder.embed_text("When did a red car come?")
    np.testing.assert_allclose(query.raw, text.numpy(), atol=1e-6)
    assert abs(float(np.linalg.norm(query.unit)) - 1) < 1e-6
    assert encoder.embed_text("red car " * 60).truncated
    assert encoder.encode([]) == []


def test_clip_encoder_sees_the_whole_frame(encoder: ClipEncoder) -> None:
    wide = np.zeros((28, 84, 3), np.uint8)
    marked = wide.copy()
    marked[:, :20] = 255  # outside the central square
    first, second = encoder.encode([wide, marked])
    assert not np.allclose(first.embedding, second.embedding)
    encoder.self_test()


def test_clip_fingerprint_depends_on_the_weights(folder: Path, encoder: ClipEncoder, tmp_path: Path) -> None:
    assert ClipEncoder.load(folder, name="again").info.fingerprint == encoder.info.fingerprint
    other = shutil.copytree(folder, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["visual_projection.weight"] = tensors["visual_projection.weight"] * 2
    save_file(tensors, other / "model.safetensors")
    assert ClipEncoder.load(other, name="clip").info.fingerprint != encoder.info.fingerprint


def test_unusable_clip_folders_are_refused_with_a_reason(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    save_file({**tensors, "extra": torch.zeros(1)}, other / "model.safetensors")
    with pytest.raises(CheckpointError, match="unexpected extra"):
        ClipEncoder.load(other, name="clip")
    missing = {name: tensor for name, tensor in tensors.items() if name != "text_projection.weight"}
    save_file(missing, other / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing text_projection\.weight"):
        ClipEncoder.load(other, name="clip")
    save_file({**tensors, "text_projection.weight": torch.zeros(2, 2)}, other / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"config\.json says"):
        ClipEncoder.load(other, name="clip")
    (other / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        ClipEncoder.load(other, name="clip")


def test_clip_alone_needs_an_answering_server(folder: Path, tmp_path: Path) -> None:
    assert is_clip(folder)
    assert not is_clip(checkpoint())
    with pytest.raises(ModelUnusable, match="set answerer"):
        load_model(settings_in(tmp_path, model={"path": str(folder)}))


async def test_clip_selects_frames_and_the_server_answers(folder: Path, tmp_path: Path, spy: Spy) -> None:
    answerer = {"kind": "openai", "probe": False, "base_url": spy.url(), "model": "good", "max_images": 6}
    settings = settings_in(tmp_path, model={"path": str(folder), "num_threads": 1}, answerer=answerer)
    question = Question("What colour was the car?", ("door",))
    answers = []
    for run in range(2):
        model = load_model(settings)
        async with Agent(settings, open_memory(settings, model), model).running() as agent:
            assert agent.encoding.test_problem is None
            if run == 0:
                await remember(agent, "door", 20, step_s=10.0)
            else:
                await agent.encoded()  # no frame is encoded again, because no patches are needed
                assert (
                    agent.metrics.registry.get_sample_value("vilamp_frames_encoded_total", {"camera": "door"}) is None
                )
            answers.append(await agent.answering.answer(question))
    first, second = answers
    assert first.text == "I see 6 pictures."
    assert len(first.seen.evidence) == 6
    # frames are chosen by visits, which keep no places for the newest frames
    assert "recent" not in {evidence.kind for evidence in first.seen.evidence}
    assert first.seen == second.seen
