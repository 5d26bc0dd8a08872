"""Records and segment files: intact ones are read back unchanged, damaged ones are always recognised."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.codec import decode, pack_frame, pack_vectors, scale_of, unpack_frame, unpack_vectors
from memory.errors import OtherEncoder, RecordDamaged, StorageError
from memory.files import cut_to, file_size, read_record, sync_file, unlink_files, write_record
from memory.segments import Segment


@given(st.integers(0, 2**62), st.floats(allow_nan=False), st.text(max_size=40), st.binary(max_size=200))
def test_frame_records_are_read_back_unchanged(frame_id: int, time: float, metadata: str, jpeg: bytes) -> None:
    frame = unpack_frame(pack_frame(frame_id, time, metadata, jpeg))
    assert (frame.frame_id, frame.time, frame.metadata, frame.jpeg) == (frame_id, time, metadata, jpeg)


@given(st.data())
def test_any_flipped_bit_or_cut_is_noticed(data: st.DataObject) -> None:
    vectors = pack_vectors(5, np.ones(4, np.float32), np.ones(3, np.float32), 9)
    frame = pack_frame(5, 1.5, '{"a":1}', b"some jpeg bytes")
    for record, unpack in ((frame, unpack_frame), (vectors, lambda r: unpack_vectors(r, (4, 3), 9))):
        bit = data.draw(st.integers(0, 8 * len(record) - 1))
        flipped = bytearray(record)
        flipped[bit // 8] ^= 1 << bit % 8
        cut = record[: data.draw(st.integers(0, len(record) - 1))]
        for bad in (bytes(flipped), cut, record + b"\0"):
            with pytest.raises(RecordDamaged):
                unpack(bad)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e4, 1e30])
def test_vectors_of_any_scale_keep_direction_and_length(scale: float) -> None:
    given_ = (np.random.default_rng(1).normal(size=512) * scale).astype(np.float32)
    stored = unpack_vectors(pack_vectors(3, given_, np.zeros(2, np.float32), 0), (512, 2), 0)
    assert stored.norm == pytest.approx(np.linalg.norm(given_.astype(np.float64)), rel=1e-6)
    unit = decode(stored.half[None], scale_of(stored.half[None]))[0]
    assert np.linalg.norm(unit) == pytest.approx(1, abs=1e-6)
    assert np.vecdot(unit, given_ / stored.norm) > 0.999999


def test_a_zero_embedding_stays_zero() -> None:
    stored = unpack_vectors(pack_vectors(3, np.zeros(4, np.float32), np.ones(2, np.float32), 0), (4, 2), 0)
    assert decode(stored.half[None], scale_of(stored.half[None])).tolist() == [[0, 0, 0, 0]]
    assert stored.norm == 0


def test_vectors_of_another_encoder_are_told_apart_from_damage() -> None:
    record = pack_vectors(3, np.ones(4, np.float32), np.ones(2, np.float32), 7)
    for sizes, tag in (((4, 2), 8), ((5, 1), 7)):
        with pytest.raises(OtherEncoder):
            unpack_vectors(record, sizes, tag)


def test_records_are_written_at_the_committed_end(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert file_size(path) == 0
    write_record(path, 0, b"first")
    write_record(path, 5, b"never committed, long")
    write_record(path, 5, b"second")
    assert read_record(path, 5, 6) == b"second"
    cut_to(path, 11)
    assert path.read_bytes() == b"firstsecond"
    cut_to(path, 100)
    assert file_size(path) == 11
    sync_file(path)
    for offset, length in ((5, 7), (11, 1)):
        with pytest.raises(RecordDamaged):
            read_record(path, offset, length)
    unlink_files(str(path), str(path))
    sync_file(path)
    with pytest.raises(StorageError, match="missing"):  # an unmounted disk, perhaps: no damage
        read_record(path, 0, 1)


def test_a_folder_in_place_of_a_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        write_record(tmp_path, 0, b"x")
    with pytest.raises(StorageError, match="cannot"):
        read_record(tmp_path, 0, 1)


def test_sealing_a_segment_keeps_its_rows(tmp_path: Path) -> None:
    segment = Segment(1, "a", tmp_path, capacity=3, embedding_dim=4, summary_dim=2)
    for frame_id in (1, 2):
        slot = segment.add(frame_id, float(frame_id), "", 0, 0)
        embedding = np.arange(4, dtype=np.float32) + frame_id
        record = pack_vectors(frame_id, embedding, np.zeros(2, np.float32), 0)
        segment.put_vectors({slot: unpack_vectors(record, (4, 2), 0)})
        segment.mark_encoded(slot)
    before = segment.halves[:2].copy()
    segment.seal_if_complete()
    assert segment.index is None  # may still grow
    segment.closed = True
    segment.seal_if_complete()
    assert segment.index.ntotal == 2
    np.testing.assert_array_equal(segment.halves, before)


def test_decoding_float16_equals_numpy_scaled_to_length_one() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    ones = np.ones(len(finite), np.float32)
    assert decode(finite[:, None], ones).tobytes() == finite.astype(np.float32).tobytes()
    halves = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float16)[:, 3:]  # rows apart in memory
    scales = scale_of(halves)
    np.testing.assert_array_equal(decode(halves, scales), halves.astype(np.float32) * scales[:, None])
    np.testing.assert_allclose(np.linalg.norm(decode(halves, scales), axis=1), 1, atol=1e-6)


def test_patches_written_while_a_segment_cools_are_dropped() -> None:
    segment = Segment(1, "a", Path(), capacity=2, embedding_dim=2, summary_dim=2)
    patches, scalars = np.ones((3, 2), np.float16), np.ones((3, 3), np.float32)
    for cools_first in (True, False):
        segment.hot = True
        if cools_first:
            segment.cool()
        block = segment.put_patches(0, patches, scalars, np.dtype(np.float16))
        if not cools_first:
            segment.cool()
        segment.mark_present(0, block)
        assert not segment.present.any()
        assert segment.patches is segment.scalars is None
