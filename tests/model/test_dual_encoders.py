"""SigLIP, SigLIP 2 and MetaCLIP 2 folders, each written by transformers, give transformers' own numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, Siglip2ImageProcessorPil, SiglipImageProcessorPil

from model.clip_encoder import ClipEncoder, is_clip
from tests.support.encoders import TEXTS, make_dual_encoder
from tests.support.tiny import make_pictures

KINDS = ("siglip", "siglip2", "metaclip_2")


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dual_encoder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> ClipEncoder:
    return ClipEncoder.load(folder, name="tiny", num_threads=1)


def kind_of(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text())["model_type"])


def test_pictures_have_the_numbers_of_transformers(folder: Path, encoder: ClipEncoder) -> None:
    assert is_clip(folder)
    pictures = make_pictures(3)
    theirs = AutoModel.from_pretrained(folder).eval()
    kind = Siglip2ImageProcessorPil if kind_of(folder) == "siglip2" else SiglipImageProcessorPil
    if kind_of(folder) == "metaclip_2":  # its own processor crops; here the whole frame is used
        described = json.loads((folder / "preprocessor_config.json").read_text())
        names = ("image_mean", "image_std", "resample", "size")
        processor = SiglipImageProcessorPil(**{name: described[name] for name in names})
    else:
        processor = kind.from_pretrained(folder)
    inputs = processor(images=pictures, return_tensors="pt", input_data_format="channels_last")
    with torch.inference_mode():
        expected = theirs.get_image_features(**inputs).pooler_output.numpy()
    ours = np.stack([features.embedding for features in encoder.encode(pictures)])
    assert ours.shape == (3, encoder.info.embedding_dim)
    np.testing.assert_allclose(ours, expected, atol=2e-5)
    assert np.abs(ours[0] - ours[1]).max() > 1e-3


@pytest.mark.parametrize("text", TEXTS)
def test_texts_have_the_numbers_of_transformers(folder: Path, encoder: ClipEncoder, text: str) -> None:
    theirs = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if kind_of(folder) == "metaclip_2":
        tokens = tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
    else:  # as it was trained: lower case, padded, without a mask
        tokens = tokenizer(text.lower(), padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    with torch.inference_mode():
        expected = theirs.get_text_features(input_ids=tokens["input_ids"]).pooler_output[0].numpy()
    ours = encoder.embed_text(text)
    np.testing.assert_allclose(ours.raw, expected, atol=2e-5)
    assert abs(float(np.linalg.norm(ours.unit)) - 1) < 1e-6
    assert ours.truncated == (len(tokenizer(text)["input_ids"]) > 16)


def test_each_family_passes_its_self_test_and_says_what_it_is(folder: Path, encoder: ClipEncoder) -> None:
    encoder.self_test()
    title = {"siglip": "SigLIP:", "siglip2": "SigLIP 2:", "metaclip_2": "MetaCLIP 2:"}[kind_of(folder)]
    assert encoder.info.card.startswith(title)
    assert encoder.encode([]) == []


def test_half_precision_stays_close(folder: Path, encoder: ClipEncoder) -> None:
    half = ClipEncoder.load(folder, name="tiny", dtype="bfloat16")
    assert half.info.fingerprint != encoder.info.fingerprint
    pictures = make_pictures(2)
    for ours, exact in zip(half.encode(pictures), encoder.encode(pictures), strict=True):
        cosine = ours.embedding @ exact.embedding / np.linalg.norm(ours.embedding) / np.linalg.norm(exact.embedding)
        assert cosine > 0.99
