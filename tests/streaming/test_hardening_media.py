"""A few hundred mutated video files; `make hardening` reads 50,000."""

from pathlib import Path

from tests.hardening.media import fuzz, make_seeds, mutated, read


def test_mutated_files_give_frames_or_an_error_message() -> None:
    counts = fuzz(400, seed=1)
    assert counts["failures"] == []
    assert sum(counts["outcomes"].values()) == 400
    assert counts["outcomes"]["frames"] > 50
    assert counts["outcomes"]["MediaUnreadable"] > 50


def test_seed_files_of_the_fuzzer_are_readable(tmp_path: Path) -> None:
    (tmp_path / "seeds").mkdir()
    seeds = make_seeds(tmp_path / "seeds")
    assert len(seeds) >= 20
    assert {read(path) for path in (tmp_path / "seeds").iterdir()} == {"frames"}
    assert mutated(seeds, 1, 5) == mutated(seeds, 1, 5) != mutated(seeds, 2, 5)
