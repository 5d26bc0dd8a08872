"""Pictures through a codec and back: as many, as large, the same every time, and worse at a lower rate."""

import numpy as np
import pytest

from model.training.data import Histories, drawn_codec, pictures_at
from model.world.codec import Codec, random_codec, through_codec
from model.world.draw import camera_faults, degrade, draw, jpeg
from model.world.scene import Scene


def drawn(width: int, height: int, count: int = 12) -> list[np.ndarray]:
    scene = Scene.from_seed(5, duration_s=60.0, style="fixed", split="eval")
    return [draw(scene, 2.0 * t, width, height) for t in range(count)]


def error(some: list[np.ndarray], others: list[np.ndarray]) -> float:
    return float(np.mean([np.abs(a.astype(float) - b).mean() for a, b in zip(some, others, strict=True)]))


@pytest.mark.parametrize("kind", ["h264", "vp8"])
@pytest.mark.parametrize("size", [(160, 90), (177, 99)])
def test_every_picture_comes_back(kind: str, size: tuple[int, int]) -> None:
    pictures = drawn(*size)
    codec = Codec(kind, 0.3)  # type: ignore[arg-type]
    decoded = list(through_codec(iter(pictures), codec))
    assert [p.shape for p in decoded] == [p.shape for p in pictures]
    assert 0 < error(decoded, pictures) < 6
    # in order: each is nearest to the picture it was made of, where the picture moves at all
    moving = [i for i in range(len(pictures)) if i and error([pictures[i]], [pictures[i - 1]]) > 3]
    assert all(error([decoded[i]], [pictures[i]]) < error([decoded[i]], [pictures[i - 1]]) for i in moving)
    assert all(np.array_equal(a, b) for a, b in zip(decoded, through_codec(pictures, codec), strict=True))


@pytest.mark.parametrize("kind", ["h264", "vp8"])
def test_a_lower_rate_loses_more(kind: str) -> None:
    rng = np.random.default_rng(0)
    pictures = [camera_faults(p, rng) for p in drawn(320, 180, 24)]
    good, poor = (list(through_codec(pictures, Codec(kind, rate))) for rate in (0.5, 0.02))  # type: ignore[arg-type]
    assert error(poor, pictures) > 1.2 * error(good, pictures)


def test_no_pictures_and_pictures_of_two_sizes() -> None:
    assert list(through_codec([], Codec())) == []
    with pytest.raises(ValueError, match="in one stream"):
        list(through_codec([*drawn(64, 36, 1), *drawn(32, 36, 1)], Codec()))


def test_codecs_of_training_are_of_both_kinds_and_all_rates() -> None:
    rng = np.random.default_rng(1)
    found = [random_codec(rng) for _ in range(200)]
    assert {codec.kind for codec in found} == {"h264", "vp8"}
    rates = [codec.bits_per_pixel for codec in found]
    assert 0.02 <= min(rates) < 0.03
    assert 0.2 < max(rates) <= 0.3


def test_a_camera_and_then_a_jpeg_are_what_degrade_does() -> None:
    picture = drawn(160, 90, 1)[0]
    one, two = np.random.default_rng(4), np.random.default_rng(4)
    for _ in range(10):
        assert np.array_equal(degrade(picture, one), jpeg(camera_faults(picture, two), two))


def test_training_pictures_go_through_the_codec_between_camera_and_jpeg() -> None:
    scene = Scene.from_seed(8, duration_s=60.0)

    def seen(codec: Codec | None) -> list[np.ndarray]:
        return list(pictures_at(scene, [float(t) for t in range(12)], (192, 108), np.random.default_rng(5), codec))

    plain, good, poor = (seen(codec) for codec in (None, Codec("h264", 0.5), Codec("h264", 0.02)))
    assert all(np.array_equal(a, b) for a, b in zip(poor, seen(Codec("h264", 0.02)), strict=True))
    assert 0 < error(good, plain) < error(poor, plain) < 20  # the same camera with the same faults, differently sent


def test_training_sends_some_histories_as_video_the_same_way_every_time() -> None:
    codecs = [drawn_codec(np.random.default_rng(seed)) for seed in range(40)]
    assert 10 < codecs.count(None) < 30
    one, two = (next(iter(Histories(3, 24, (24,), per_window=1, density=1.0))).images for _ in range(2))
    assert one.equal(two)
