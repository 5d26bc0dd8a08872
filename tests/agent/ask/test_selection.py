"""How keyframes are chosen: the setting, the field of a request, and the visits that an answer reports."""

import numpy as np
import pytest

from agent.ask.keyframes import Selection, visits_of
from agent.evaluation.window import CAMERA, ArrayWindow
from agent.settings.settings import AnsweringSettings
from model.features import Defaults, FrameFeatures
from model.scoring import score_frames
from tests.support.agents import tiny_model


def window_of(relevance: np.ndarray) -> tuple[ArrayWindow, np.ndarray]:
    """A window of one camera whose frames have this cosine with the query, and the query."""
    other = np.random.default_rng(0).normal(size=(len(relevance), 7))
    other *= (np.sqrt(1 - relevance**2) / np.linalg.norm(other, axis=1))[:, None]
    nothing = np.zeros((1, 1), np.float16)
    frames = [
        FrameFeatures(np.append(score, rest).astype(np.float32), nothing, nothing, np.zeros(1, np.float32))
        for score, rest in zip(relevance, other, strict=True)
    ]
    return ArrayWindow(frames, 1000.0 + np.arange(len(frames))), np.eye(8, dtype=np.float32)[0]


@pytest.fixture
def history() -> tuple[ArrayWindow, np.ndarray]:
    relevance = np.random.default_rng(1).normal(0.1, 0.01, 200)
    relevance[40:50] += 0.5
    relevance[120:123] += 0.4
    relevance[160:163] += 0.15  # something else that comes by
    return window_of(relevance)


def test_selection_by_visits_reports_the_visits_of_the_window(history: tuple[ArrayWindow, np.ndarray]) -> None:
    window, query = history
    keyframes = Selection(rule="visits", num_keyframes=3, fill="none")(window, query)
    visits = visits_of(window, keyframes.visits)
    assert [(each.camera, each.start, each.end, each.is_clear) for each in visits] == [
        (CAMERA, 1040.0, 1049.0, True),
        (CAMERA, 1120.0, 1122.0, True),
        (CAMERA, 1160.0, 1162.0, False),
    ]
    assert [each.frame_id for each in visits] == keyframes.rows.tolist()


@pytest.mark.parametrize("rule", ["dks", "top_k", "uniform"])
def test_other_rules_report_no_visits(history: tuple[ArrayWindow, np.ndarray], rule: str) -> None:
    keyframes = Selection(rule=rule, num_keyframes=8)(*history)  # type: ignore[arg-type]
    assert len(keyframes.rows) == 8
    assert keyframes.visits == ()


def test_best_frames_are_the_same_as_a_full_sort(history: tuple[ArrayWindow, np.ndarray]) -> None:
    window, query = history
    rows = Selection(rule="top_k", num_keyframes=5, fill="none")(window, query).rows
    assert sorted(rows.tolist()) == sorted(np.argsort(-score_frames(window, query), kind="stable")[:5].tolist())


def test_a_request_overrides_the_setting_and_the_setting_the_checkpoint() -> None:
    defaults: Defaults = tiny_model().info.defaults
    assert Selection.of(defaults).rule == defaults.selection == "dks"  # as the paper's checkpoints are published
    settings = AnsweringSettings(selection="uniform")
    assert Selection.of(defaults, settings).rule == "uniform"
    assert Selection.of(defaults, settings, rule="visits").rule == "visits"


def test_selection_by_visits_keeps_no_places_for_the_newest_frames_unless_asked() -> None:
    defaults = tiny_model().info.defaults
    assert Selection.of(defaults, rule="visits").recent == 0
    assert Selection.of(defaults, rule="visits", recent=2).recent == 2
