"""Frames behind the hot window: blocks equal their segments, and a question encodes only the frames it needs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.app import Agent
from agent.ask.question import Question
from agent.ingest.jpeg import decode_jpeg
from agent.keep.memory import open_memory
from memory import segments
from memory.errors import FrameGone
from memory.limits import Limits
from memory.store import MemoryStore
from memory.window import Window
from model.select import ArrayCandidates, QueryCandidates, select_keyframes
from model.thinning import Thinned, evenly, rows_taking_part
from model.video_model import VideoModel
from tests.support.agents import START, remember, settings_in, tiny_model
from tests.support.memories import D, features, open_store, picture


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two segments of four frames."""
    monkeypatch.setattr(segments, "BLOCK_SEGMENTS", 2)


def remember_some(store: MemoryStore, count: int, seed: int, *, maintain: bool) -> None:
    """Append frames of two cameras in random order and attach them in another, with a few calls of `maintain`."""
    rng = np.random.default_rng(seed)
    late: list[int] = []
    for number in range(count):
        camera = "ab"[int(rng.integers(0, 2))]
        frame_id = store.append(camera, float(number), picture(camera, number), {"x": number})
        late.append(frame_id)
        if rng.random() < 0.8:
            store.attach(frame_id, **features(frame_id % 7 if rng.random() < 0.5 else frame_id))
            late.pop()
        pause = rng.random() < 0.1
        if maintain and pause:
            store.maintain()
        if number == 2 * count // 3:
            for waiting in late:
                store.attach(waiting, **features(waiting))
            late = []
    if maintain:
        store.maintain()


def describe(window: Window) -> list[Any]:
    rows = np.arange(window.num_frames)
    query = features(3)["embedding"] / np.linalg.norm(features(3)["embedding"])
    found = [window.frame_ids, window.times, window.camera_index, window.background(), window.present()]
    found += [window.embeddings(rows), window.embeddings(rows[::-1]), window.embeddings(rows[3:9]), window.norms(rows)]
    found += [window.summaries(0, window.num_frames), window.read(0, window.num_frames).present]
    for k in (1, 5, len(rows)):
        found += window.top(query, k)
    return (
        [array.tobytes() for array in found] + [(window.jpeg(r), window.metadata(r)) for r in rows] + [window.unencoded]
    )


@pytest.mark.parametrize("frames", [70, 10_000])
@pytest.mark.parametrize("seed", range(4))
def test_blocks_and_their_segments_give_the_same_windows(tmp_path: Path, seed: int, frames: int) -> None:
    limits = {"frames": frames, "hot_frames": 8}
    with open_store(tmp_path / "blocks", **limits) as store, open_store(tmp_path / "segments", **limits) as plain:
        remember_some(store, 260, seed, maintain=True)
        remember_some(plain, 260, seed, maintain=False)
        for cameras in (["a"], ["b", "a"]):
            for after, before in ((None, None), (31.0, 200.0), (100.0, None), (250.0, None), (None, 6.0)):
                window, expected = store.window(cameras, after, before), plain.window(cameras, after, before)
                assert describe(window) == describe(expected)
        assert len(store.window(["a"]).spans()) < len(plain.window(["a"]).spans())
        assert store.stats("a") == plain.stats("a")
        before_restart = describe(store.window(["a", "b"]))
    with open_store(tmp_path / "blocks", **limits) as store:
        again = store.window(["a", "b"])
        assert describe(again)[:4] == before_restart[:4]  # frames, times, cameras, background: the same bits
        assert describe(again)[5:] == [*before_restart[5:10], again.present().tobytes(), *before_restart[11:]]


def test_an_evicted_segment_leaves_its_block_and_the_disk(tmp_path: Path) -> None:
    with open_store(tmp_path, frames=16, hot_frames=0) as store:
        ids = [store.append("a", float(n), picture("a", n)) for n in range(16)]
        for frame_id in ids:
            store.attach(frame_id, **features(frame_id))
        store.maintain()
        assert store.window(["a"]).spans() == ((0, 8), (8, 16))
        oldest = tmp_path / "segments" / "a" / "000000000001.frames"
        for number in range(16, 20):
            assert oldest.exists()
            store.append("a", float(number), picture("a", number))
        store.maintain()
        assert not oldest.exists()
        assert store.window(["a"]).spans() == ((0, 4), (4, 12))
        np.testing.assert_array_equal(store.window(["a"]).frame_ids, ids[4:])


def test_a_segment_evicted_while_its_block_is_made_is_removed_from_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path, age_s=1000.0, hot_frames=0) as store:
        for number in range(16):
            store.attach(store.append("a", float(number), picture("a", number)), **features(number))

        class Meanwhile(segments.Block):
            def __init__(self, segments: Any) -> None:
                super().__init__(segments)
                store.expire(1003.5)

        monkeypatch.setattr("memory.cameras.Block", Meanwhile)
        store.maintain()
        assert len(store.window(["a"]).spans()) == 3  # nothing has joined what left
        store.maintain()
        assert store.window(["a"]).spans() == ((0, 8), (8, 12))
        store.maintain()
        assert not (tmp_path / "segments" / "a" / "000000000001.frames").exists()


def test_a_damaged_picture_in_a_block_drops_only_its_frame(tmp_path: Path) -> None:
    with open_store(tmp_path, hot_frames=0) as store:
        for number in range(8):
            store.attach(store.append("a", float(number), picture("a", number)), **features(number))
        store.maintain()
        window = store.window(["a"])
        path = tmp_path / "segments" / "a" / "000000000005.frames"
        path.write_bytes(path.read_bytes().replace(picture("a", 6), b"#" * len(picture("a", 6))))
        with pytest.raises(FrameGone):
            window.jpeg(6)
        assert window.jpeg(7) == picture("a", 7)
        assert store.window(["a"]).frame_ids.tolist() == [1, 2, 3, 4, 5, 6, 8]


def test_erasing_in_a_block_keeps_the_other_frames(tmp_path: Path) -> None:
    with open_store(tmp_path, hot_frames=0) as store:
        for number in range(16):
            store.attach(store.append("a", float(number), picture("a", number)), **features(number))
        store.maintain()
        store.erase("a", 5.0, 6.0)
        window = store.window(["a"])
        assert window.times.tolist() == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13, 14, 15]
        expected = np.stack([features(n)["embedding"] for n in window.times.astype(int)])
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(window.embeddings(np.arange(14)), expected, atol=1e-3)
        store.maintain()
        np.testing.assert_allclose(store.window(["a"]).embeddings(np.arange(14)), expected, atol=1e-3)


def test_float16_embeddings_select_the_same_frames_as_float32(tmp_path: Path) -> None:
    """Compare the encoder's float32 embeddings with the stored ones."""
    rng = np.random.default_rng(0)
    scenes = rng.normal(size=(6, D))
    given = (scenes[rng.integers(0, 6, 600)] + 0.2 * rng.normal(size=(600, D))).astype(np.float32)
    unit = given / np.linalg.norm(given, axis=1, keepdims=True)
    same = []
    with open_store(tmp_path, hot_frames=20) as store:
        for number, embedding in enumerate(given):
            frame_id = store.append("a", float(number), b"x")
            store.attach(frame_id, **{**features(number), "embedding": embedding})
        store.maintain()
        window = store.window(["a"])
        for query in unit[:20] + unit[20:40]:
            query /= np.linalg.norm(query)
            exact = select_keyframes(ArrayCandidates(unit, query), num_keyframes=8)
            kept = select_keyframes(QueryCandidates(window, query), num_keyframes=8)
            same.append(len(set(exact.rows.tolist()) & set(kept.rows.tolist())) / 8)
    assert np.mean(same) >= 0.99


# --- what a context takes from it ---


def test_thinning_worked_example() -> None:
    present = np.arange(10) >= 6
    rows = rows_taking_part(present, np.array([1, 7]), most_summaries=3)
    assert rows.tolist() == [0, 1, 3, 5, 6, 7, 8, 9]
    assert evenly(np.array([0, 2, 3, 4, 5]), 3).tolist() == [0, 3, 5]
    assert rows_taking_part(present, np.array([1, 7]), most_merged=2, most_summaries=0).tolist() == [1, 6, 7, 9]
    everything = np.arange(10)
    assert rows_taking_part(present, everything[:2]).tolist() == everything.tolist()


def test_a_thinned_source_equals_a_source_of_the_chosen_frames(tmp_path: Path) -> None:
    with open_store(tmp_path, hot_frames=9) as store:
        remember_some(store, 60, 1, maintain=True)
        window = store.window(["a", "b"])
    rows = np.array([0, 1, 5, 6, 7, 20, 33, 34, window.num_frames - 1])
    thinned = Thinned(window, rows)
    sizes = np.bincount(window.camera_index).tolist()
    assert thinned.group_sizes(sizes) == [int((rows < sizes[0]).sum()), int((rows >= sizes[0]).sum())]
    assert thinned.places(rows[[2, 5]]).tolist() == [2, 5]
    np.testing.assert_array_equal(thinned.present(), window.present()[rows])
    for start, stop in ((0, len(rows)), (1, 3), (4, 5), (5, 9)):
        block = thinned.read(start, stop)
        singles = [window.read(int(row), int(row) + 1) for row in rows[start:stop]]
        for name in ("patches", "scalars", "present"):
            np.testing.assert_array_equal(getattr(block, name), np.concatenate([getattr(s, name) for s in singles]))
        summaries = [window.summaries(int(row), int(row) + 1) for row in rows[start:stop]]
        np.testing.assert_array_equal(thinned.summaries(start, stop), np.concatenate(summaries))
    np.testing.assert_array_equal(thinned.embeddings(np.array([3, 0])), window.embeddings(rows[[3, 0]]))
    np.testing.assert_array_equal(thinned.norms(np.array([3, 0])), window.norms(rows[[3, 0]]))


class Counted:
    """A window that counts the rows whose summaries and patches are read."""

    def __init__(self, window: Any) -> None:
        self._window = window
        self.rows_read = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._window, name)

    def read(self, start: int, stop: int) -> Any:
        self.rows_read += stop - start
        return self._window.read(start, stop)

    def summaries(self, start: int, stop: int) -> Any:
        self.rows_read += stop - start
        return self._window.summaries(start, stop)


async def test_tokens_and_reads_are_bounded_however_long_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_taking_part, "__kwdefaults__", {"most_merged": 10_000, "most_summaries": 10})
    model = tiny_model()
    tokens, reads = [], []
    async with archived(tmp_path, hot_frames=4) as agent:
        for part in range(2):
            await remember(agent, "door", 30, start=START + 1000 * part)
            window = agent.store.window(["door"])
            query = model.embed_text("Did a dog come?")
            keyframes = select_keyframes(QueryCandidates(window, query.unit), num_keyframes=3)
            missing = [int(row) for row in keyframes.rows if not window.present()[row]]
            fresh = model.encode([np.zeros((48, 64, 3), np.uint8)] * len(missing)) if missing else []
            counted = Counted(window)
            context = model.build_context(counted, keyframes, query, overrides=dict(zip(missing, fresh, strict=True)))
            tokens.append(context.num_tokens)
            reads.append(counted.rows_read)
            left = window.num_frames - len(missing) - int(window.present().sum()) - 10
            assert context.num_left_out == max(0, left)
            assert context.keyframes.rows.tolist() == keyframes.rows.tolist()
            assert set(context.merged_rows.tolist()).isdisjoint(keyframes.rows.tolist())
    assert window.num_frames == 60
    assert tokens[1] <= tokens[0] + 4
    assert reads[1] <= reads[0] + 8


# --- in the agent ---


def archived(folder: Path, hot_frames: int) -> Any:
    """An agent that keeps the patches of `hot` frames, up to one segment of four more."""
    model, settings = tiny_model(), settings_in(folder, answering={"max_new_tokens": 4})
    info = model.info
    store = MemoryStore(
        folder / "memory",
        embedding_dim=info.embedding_dim,
        limits=Limits(hot_frames=hot_frames, segment_frames=4),
        patch_shape=(info.patches_per_frame, info.patch_width),
        patch_dtype=info.patch_dtype,
        num_scalars=info.num_scalars,
        encoder=info.fingerprint,
    )
    return Agent(settings, store, model).running()


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("What colour was the dog?", "frames that contributed their summary only: "),  # in the model's words
        ("Did a dog come?", "answered from visits (answering.in_steps): 4 pictures were looked at"),
    ],
)
async def test_only_chosen_archive_frames_are_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, note: str
) -> None:
    encoded: list[np.ndarray] = []
    encode = VideoModel.encode

    def counted(model: VideoModel, images: Any) -> Any:
        encoded.extend(images)
        return encode(model, images)

    async with archived(tmp_path, hot_frames=4) as agent:
        await remember(agent, "door", 40)
        assert 4 <= agent.store.stats("door").hot <= 8
        window = agent.store.window(["door"])
        monkeypatch.setattr(VideoModel, "encode", counted)
        answer = await agent.answering.answer(Question(text, ("door",)))
        rows = [int(np.searchsorted(window.frame_ids, evidence.frame_id)) for evidence in answer.seen.evidence]
        wanted = [decode_jpeg(window.jpeg(row)) for row in rows if not window.present()[row]]
        assert len(encoded) == 4 if "visits" in note else 1 <= len(encoded) <= 4
        pictures = [image.tobytes() for image in encoded]
        assert len(set(pictures)) == len(pictures)
        if "visits" in note:  # looked at in order of relevance; this model says neither yes nor no of any
            assert set(pictures) >= {image.tobytes() for image in wanted}
        else:
            assert len(rows) == 4
            assert sorted(pictures) == sorted(image.tobytes() for image in wanted)
        assert any(each.startswith(note) for each in answer.finished.notes)


def test_hot_frames_can_be_set_per_camera(tmp_path: Path) -> None:
    cameras = {"gate": {"hot_frames": 256}, "few": {"hot_frames": 0}}
    settings, model = settings_in(tmp_path, cameras=cameras), tiny_model()
    [frame] = model.encode([np.zeros((48, 64, 3), np.uint8)])
    with open_memory(settings, model) as store:
        for camera in ("gate", "few"):
            for number in range(600):
                store.attach(
                    store.append(camera, float(number), b"x"),
                    embedding=frame.embedding,
                    summary=frame.summary,
                    patches=frame.patches,
                    scalars=frame.scalars,
                )
        assert store.stats("gate").hot == 600 - 256  # whole segments cool
        assert store.stats("few").hot < 256


def test_memory_read_at_a_restart_is_freed_on_eviction(tmp_path: Path) -> None:
    with open_store(tmp_path, frames=8) as store:
        for number in range(8):
            store.append("a", float(number), picture("a", number))
    oldest = tmp_path / "segments" / "a" / "000000000001.frames"
    with open_store(tmp_path, frames=8) as store:
        for number in range(8, 12):
            assert oldest.exists()
            store.append("a", float(number), picture("a", number))
        store.maintain()
        assert not oldest.exists()
