"""Needles appear in the right frames at the right depth, and comparisons of arms count differences correctly."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from agent.ask.keyframes import Selection
from agent.evaluation.arms import Asker
from agent.evaluation.clips import features_of, world_clip
from agent.evaluation.run import dks_alone
from benchmarks import ablations, fixed_camera, long_stays, needles
from model.history import ArrayHistory
from model.video_model import VideoModel
from model.world.answers import is_correct
from model.world.draw import draw
from model.world.needle import MIN_CLEAR, absent, add_visitor
from model.world.scene import Scene
from tests.support import tiny

BUILTIN = Path(__file__).parents[3] / "model" / "builtin"


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.from_seed(5, duration_s=300.0, style="fixed", split="eval")


@pytest.fixture(scope="module")
def builtin() -> VideoModel:
    return VideoModel.load(BUILTIN)


def test_a_visitor_is_painted_in_its_frames_and_nowhere_else(scene: Scene) -> None:
    kind, colour = absent(scene)[0]
    visitor = add_visitor(scene, kind, colour, 120.3, np.random.default_rng(0))
    assert visitor is not None
    assert len(visitor.clear) >= MIN_CLEAR
    assert set(visitor.clear) <= set(visitor.rows)
    assert visitor.rows == tuple(range(visitor.rows[0], visitor.rows[-1] + 1))
    for row in range(visitor.rows[0] - 2, visitor.rows[-1] + 3):
        same = np.array_equal(draw(scene, float(row), 160, 90), draw(visitor.scene, float(row), 160, 90))
        assert same == (row not in visitor.rows)
        named = [v for v in visitor.scene.visible_at(float(row)) if (v.kind, v.colour) == (kind, colour)]
        assert bool(named) == (row in visitor.clear)


def test_a_short_stay_is_the_beginning_of_a_long_one(scene: Scene) -> None:
    kind, colour = absent(scene)[0]
    short, long = (
        add_visitor(scene, kind, colour, 100.0, np.random.default_rng(2), stay_s=stay) for stay in (20.0, 90.0)
    )
    assert short is not None
    assert long is not None
    assert (len(short.rows), len(long.rows)) == (27, 97)  # in view from just after it starts to just before it ends
    leaves = int(short.scene.actors[-1].times[2])
    for row in range(short.rows[0], short.rows[-1] + 1):
        same = np.array_equal(draw(short.scene, float(row), 160, 90), draw(long.scene, float(row), 160, 90))
        assert same == (row < leaves)
    boxes = {
        v.box for row in range(106, 122) for v in long.scene.visible_at(row) if (v.kind, v.colour) == (kind, colour)
    }
    assert len({round((box[0] + box[2]) / 2, 3) for box in boxes}) == 1


def test_three_visits_well_apart_and_the_frames_that_show_them(builtin: VideoModel) -> None:
    clip = next(c for c in (world_clip(n, 150) for n in range(20)) if c.scene is not None and c.scene.style == "fixed")
    kept = features_of(builtin, clip)
    stack = needles.Haystack(clip, kept, ArrayHistory(kept).unit_embeddings())
    rng = np.random.default_rng(5)
    three = long_stays.trio(stack, (10, 40), rng)
    found = dict(long_stays.histories(builtin, three, rng))
    assert list(found) == [40, 10]
    for stay, asker in found.items():
        visits = [set(each.rows) for each in (three.staying[stay], three.passing, three.again)]
        assert all(min(abs(a - b) for a in one for b in other) > 10 for one, other in combinations(visits, 2))
        changed = {row for row, frame in enumerate(asker.window.features) if frame is not kept[row]}
        assert changed == set.union(*visits)
    gone = three.staying[10].scene.actors[-1].times[2]
    for row in three.staying[10].rows:
        assert (found[10].window.features[row] is found[40].window.features[row]) == (row < gone)
    staying, again = three.staying[10], three.again
    assert (staying.kind, staying.colour) == (again.kind, again.colour)
    texts = long_stays.asked_for(three, rng)
    assert all(f"{staying.colour} {staying.kind}" in text for text in texts.values())
    assert f"{three.passing.colour} {three.passing.kind}" in texts["order"]


def test_stays_are_summarised_by_arm_and_length() -> None:
    def row(stay: int, right: bool) -> dict[str, object]:
        arm = {"right": right, "order_found": True, "count_found": not right, "places": 4 if right else 6}
        return {"stay_s": stay, "questions": {"order": "", "count": ""}, "DKS": arm}

    report = long_stays.summary([row(10, True), row(10, False), row(60, True)])
    assert list(report) == ["DKS"]
    assert report["DKS"][10]["right"]["mean"] == report["DKS"][10]["count_found"]["mean"] == 0.5
    assert report["DKS"][10]["places"] == 5
    assert report["DKS"][60]["order_found"]["mean"] == 1


def test_only_fixed_cameras_get_visitors() -> None:
    robot = Scene.from_seed(5, duration_s=60.0, style="robot")
    with pytest.raises(ValueError, match="fixed camera"):
        add_visitor(robot, "dog", "red", 20.0, np.random.default_rng(0))


def test_a_needle_lands_at_its_depth_on_a_clock_that_runs_through(builtin: VideoModel) -> None:
    """The features inserted are those of drawing the frames with the visitor; the answer that names its time is right."""
    clip = next(c for c in (world_clip(n, 120) for n in range(20)) if c.scene is not None and c.scene.style == "fixed")
    kept = features_of(builtin, clip)
    stack = needles.Haystack(clip, kept, ArrayHistory(kept).unit_embeddings())
    rng = np.random.default_rng(3)
    hidden = needles.hide(stack, 7, rng)
    for depth in (0, 4, 9):
        asker, question = needles.placed(builtin, hidden, 80, depth, rng)
        assert len(asker.window.features) == len(asker.window.times) == 80
        assert np.array_equal(np.diff(asker.window.times), np.ones(79))
        first = int(question.spans[0][0])
        assert first == int((depth + 0.5) / 10 * 80)
        inserted = [row for row, frame in enumerate(asker.window.features) if not any(frame is f for f in kept)]
        shown = {first + clear - hidden.visitor.clear[0] for clear in hidden.visitor.clear}
        assert shown & set(range(80)) <= set(inserted)
        clock = np.datetime64(int(asker.window.times[first]), "s").astype(str)[-8:]
        assert is_correct(question, clock)
        assert not is_correct(question, "00:00:00" if clock > "01" else "12:00:00")
    unit = needles.embedded(builtin, hidden.pictures.values())
    whole = ArrayHistory(builtin.encode(list(hidden.pictures.values()))).unit_embeddings()
    assert np.allclose(unit, whole, atol=1e-5)
    stack.embeddings[list(hidden.pictures)] = unit
    assert needles.found_alone(builtin, hidden, stack.embeddings, dks_alone(builtin.info.defaults), rng)


def test_needle_summary_has_cells_and_totals() -> None:
    def row(depth: int, right: bool) -> dict[str, object]:
        arm = {"right": right, "found": right, "tokens": 100}
        return {"frames": 2000, "depth": depth, "dks": arm, "top_k": arm, "uniform": arm | {"right": False}}

    report = needles.summary([row(d, d != 4) for d in range(10)], (2000,))
    assert report["dks"]["cells"] == [[1, 1, 1, 1, 0, 1, 1, 1, 1, 1]]
    assert report["dks"]["all"]["mean"] == pytest.approx(0.9)
    assert report["uniform"]["all"]["mean"] == 0
    assert report["dks"]["by_frames"][2000]["count"] == 10


def test_the_sign_test_is_the_binomial() -> None:
    assert ablations.sign_test(0, 6) == pytest.approx(2 / 64)
    assert ablations.sign_test(3, 3) == 1.0
    assert ablations.sign_test(0, 0) == 1.0


def test_every_arm_changes_one_thing_of_the_product(builtin: VideoModel) -> None:
    found = ablations.settings(builtin)
    product = found.pop("product")
    for name, each in found.items():
        base, arm = vars(product.arm), vars(each.arm)
        changed = [key for key in base if base[key] != arm[key]]
        if "num_keyframes" in changed and arm["num_keyframes"] < 16:  # the newest frames get a quarter at most
            assert arm["recent"] == arm["num_keyframes"] // 4
            changed.remove("recent")
        changed += [key for key in ("composer", "temperature") if getattr(each, key) is not None]
        assert len(changed) == (2 if name == "keyframes only, K = 8" else 1), name


def test_ablations_count_lost_and_won_against_the_product(tmp_path: Path) -> None:
    model = VideoModel.load(tiny.make_checkpoint(tmp_path / "tiny"))
    clip = world_clip(4036, 60)
    asker = Asker(model, features_of(model, clip), clip.times)
    asked = ablations.chosen_questions(clip, 4, np.random.default_rng(0))
    assert len({q.text for q in asked}) == len(asked) == 4
    assert {q.family for q in asked} <= set(ablations.LEARNT)
    rows = list(ablations.run(model, ablations.Setting("K", Selection(num_keyframes=3)), [(clip, asker, asked)]))
    better = [row | {"right": True} for row in rows]
    wrong = [row | {"right": False} for row in rows]
    assert ablations.summary(better, wrong)["won"] == 4
    assert ablations.summary(wrong, better)["lost"] == 4
    assert ablations.summary(rows, rows) | {"lost": 0, "won": 0, "p": 1.0} == ablations.summary(rows, rows)
    recalls = ablations.recall_by_tau(model, [(clip, asker, asked)])
    assert {row["redundancy"] for row in recalls} == {"raw", "background"}
    assert all(row["taken"] <= model.info.defaults.num_keyframes for row in recalls)


def test_pictures_of_the_results_are_made(tmp_path: Path) -> None:
    one = {"mean": 0.9, "interval": [0.8, 0.95], "count": 20}
    needles.plot_recall([one] * 10, 0.1, tmp_path / "recall.png")
    cells = {name: {"cells": [[0.5] * 10] * 2, "all": one} for name in needles.ARMS}
    needles.plot_answers(cells, (100, 200), tmp_path / "needles.png")
    ablations.plot({"product": one | {"group": "product", "tokens": 10, "ms": 20}}, tmp_path / "cost.png")
    row = {"redundancy": "raw", "tau": 0.85, "taken": 5.0, "recall": one, "coverage": one}
    fixed_camera.plot({"60": {"rows": [row, row | {"redundancy": "background"}]}}, tmp_path / "fixed.png")
    stays = {stay: {"order_found": one, "count_found": one, "right": one, "places": 3.0} for stay in (10, 60)}
    long_stays.plot({"DKS": stays, "uniform": stays}, {10: one, 60: one}, tmp_path / "stays.png")
    assert all(path.stat().st_size > 5000 for path in tmp_path.glob("*.png"))
    assert len(list(tmp_path.glob("*.png"))) == 5


def test_counts_in_steps_are_right_if_two() -> None:
    rows = [{"stay_s": 10, "in_steps": "two"}, {"stay_s": 10, "in_steps": "three"}, {"stay_s": 60, "in_steps": "two"}]
    found = long_stays.right_in_steps(rows)
    assert (found[10]["mean"], found[10]["count"], found[60]["mean"]) == (0.5, 2, 1.0)
