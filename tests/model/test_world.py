"""The drawn world: repeatable by seed, drawn as logged, and different for training and evaluation."""

import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from model.world import sprites
from model.world.backdrop import backdrop
from model.world.draw import degrade, draw
from model.world.plan import NUM_TRAIN_PALETTES, NUM_TRAIN_VARIANTS, num_visits
from model.world.scene import Scene, patch_labels
from model.world.things import COLOURS, KINDS, ZONES, Visible, depth_scale, size_of
from model.world.video import read_truth, truth, write_video

SIZE = (160, 90)


@pytest.fixture(scope="module", params=["fixed", "robot"])
def scene(request: pytest.FixtureRequest) -> Scene:
    return Scene.from_seed(3, duration_s=400, style=request.param)


def came(scene: Scene, t: float) -> list[Visible]:
    return [v for v in scene.visible_at(t) if v.action != "closed"]


def test_same_seed_makes_the_same_world() -> None:
    first, second = (Scene.from_seed(11, duration_s=120) for _ in range(2))
    assert (first.events, first.layout, first.camera) == (second.events, second.layout, second.camera)
    t = first.events[0].start_s + 1
    assert np.array_equal(draw(first, t, *SIZE), draw(second, t, *SIZE))


def test_frame_does_not_depend_on_frames_drawn_before(scene: Scene) -> None:
    times = [event.start_s + 1.0 for event in scene.events[:4]]
    forward = [draw(scene, t, *SIZE) for t in times]
    backward = [draw(scene, t, *SIZE) for t in reversed(times)]
    assert all(np.array_equal(a, b) for a, b in zip(forward, reversed(backward), strict=True))


def test_training_and_evaluation_share_no_world() -> None:
    train, held_out = (
        [Scene.from_seed(seed, duration_s=60, split=split) for seed in range(30)] for split in ("train", "eval")
    )
    assert all(a.layout != b.layout and a.actors != b.actors for a, b in zip(train, held_out, strict=True))
    assert all(s.layout.palette < NUM_TRAIN_PALETTES and s.layout.variant < NUM_TRAIN_VARIANTS for s in train)
    assert sum(s.layout.palette >= NUM_TRAIN_PALETTES for s in held_out) > 10
    assert not {s.layout.seed for s in train} & {s.layout.seed for s in held_out}


def test_logged_things_are_drawn_where_the_log_says() -> None:
    """Without its visitors the same frame differs inside the logged boxes only."""
    for seed in range(3):
        full = Scene.from_seed(seed, duration_s=200, style="fixed")
        empty = Scene(
            full.seed, full.split, full.style, full.duration_s, full.layout, full.camera, (), full.light_knots
        )
        for event in full.events:
            if event.kind == "door":
                continue
            t = (event.start_s + event.end_s) / 2
            changed = np.abs(draw(full, t, *SIZE).astype(int) - draw(empty, t, *SIZE)).max(-1) > 12
            for visible in full.visible_at(t):
                if visible.action in ("open", "closed"):
                    continue
                x0, y0, x1, y1 = (round(v * s) for v, s in zip(visible.box, SIZE * 2, strict=True))
                assert changed[y0:y1, x0:x1].mean() > 0.25, (visible, seed)
            for place in full.placements(t):
                x0, y0, x1, y1 = place.box  # with shadow and cart
                changed[
                    max(0, int(y0 * 90) - 1) : int(y1 * 90) + 9, max(0, int(x0 * 160) - 4) : max(0, int(x1 * 160) + 5)
                ] = False
            assert not changed.any()


def test_drawn_colour_is_the_logged_colour() -> None:
    """By day, the most saturated hue of a thing is nearest to its colour name among the eight."""
    palette = np.array([sprites.RGB[c] for c in COLOURS], float)
    for kind in ("person", "car", "truck", "bag", "box", "ball", "cone", "dog"):
        for name in COLOURS:
            rgb = sprites.body_colour(name, 5)
            picture = np.asarray(sprites.render(sprites.DRAWINGS[kind](rgb, 5, 0.0), 60, 60), float)
            opaque = picture[picture[..., 3] > 250][:, :3]
            near = np.abs(opaque[:, None] - palette).sum(-1).argmin(1)
            body = np.abs(opaque - rgb).sum(-1) < 40
            assert body.mean() > 0.12, (kind, name)
            assert Counter(near[body].tolist()).most_common(1)[0][0] == COLOURS.index(name)


def test_open_door_looks_different() -> None:
    for seed in range(30):
        scene = Scene.from_seed(seed, duration_s=400, style="fixed")
        opened = [event for event in scene.events if event.kind == "door"]
        if opened:
            event = opened[0]
            t = (event.start_s + event.end_s) / 2
            visible = next(v for v in scene.visible_at(t) if v.actor == event.actor)
            x0, y0, x1, y1 = (round(v * s) for v, s in zip(visible.box, SIZE * 2, strict=True))
            before = draw(scene, max(0.0, event.start_s - 3), *SIZE)[y0:y1, x0:x1].astype(int)
            assert np.abs(draw(scene, t, *SIZE)[y0:y1, x0:x1] - before).mean() > 15
            return
    pytest.fail("no door opened in thirty scenes")


def test_events_match_what_the_camera_sees(scene: Scene) -> None:
    """Things are in sight at both ends of their events; outside of events for less than three seconds."""
    stays: dict[int, list[tuple[float, float]]] = {}
    for event in scene.events:
        stays.setdefault(event.actor, []).append((event.start_s, event.end_s))
        for t in (event.start_s, event.end_s):
            assert (event.kind, event.colour) in {(v.kind, v.colour) for v in came(scene, t)}
    unlogged: Counter[int] = Counter()
    for t in np.arange(0.0, scene.duration_s, 0.25).tolist():
        for visible in came(scene, t):
            if not any(first <= t <= last for first, last in stays.get(visible.actor, [])):
                unlogged[visible.actor] += 1
    assert all(steps * 0.25 < 3 for steps in unlogged.values())


def test_visits_of_one_kind_and_colour_can_be_told_apart() -> None:
    for seed in range(8):
        scene = Scene.from_seed(seed, duration_s=600, style="fixed")
        visits: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for event in scene.events:
            visits.setdefault((event.kind, event.colour), []).append((event.start_s, event.end_s))
        for stays in visits.values():
            assert all(b[0] - a[1] > 6 for a, b in pairwise(sorted(stays)))


def test_density_and_length_of_events_vary_as_asked() -> None:
    assert [num_visits(d, 1) for d in (64, 600, 1000, 10_000)] == [4, 15, 20, 70]
    long = Scene.from_seed(1, duration_s=10_000, style="fixed")
    counts = Counter((event.kind, event.colour) for event in long.events)
    assert sum(counts.values()) >= 60
    assert sum(number == 1 for number in counts.values()) >= 30
    assert len({event.kind for event in long.events}) >= 9
    durations = np.array([event.duration_s for event in long.events])
    assert durations.max() <= 26
    assert np.median(durations) < 14
    quiet = np.mean([not came(long, t) for t in np.arange(0.0, 10_000, 25.0).tolist()])
    assert quiet > 0.8  # a fixed camera sees nothing most of the time


def test_everything_is_large_enough_to_name() -> None:
    for kind in KINDS:
        for foot_y in (0.70, 0.95):
            width, height = size_of(kind, depth_scale(foot_y))
            assert min(width * 96 / 8.5, height * 96 / 17) >= 1, kind


def test_robot_drives_through_rooms_and_reports_its_pose() -> None:
    scene = Scene.from_seed(2, duration_s=600, style="robot")
    poses = [scene.metadata_at(t) for t in np.arange(0.0, 600.0, 5.0).tolist()]
    assert len({pose["zone"] for pose in poses}) >= 3
    assert {pose["zone"] for pose in poses} <= set(ZONES)
    assert max(abs(a["x"] - b["x"]) for a, b in pairwise(poses)) <= 5 * 0.6
    assert Scene.from_seed(2, duration_s=60, style="fixed").metadata_at(1.0) == {}


def test_left_object_is_alone_until_it_is_taken() -> None:
    found = 0
    for seed in range(12):
        scene = Scene.from_seed(seed, duration_s=600, style="fixed")
        for event in scene.events:
            if event.owner_gone_s is None:
                continue
            found += 1
            assert event.taken_s is not None
            assert event.start_s < event.owner_gone_s < event.taken_s <= event.end_s
            owner = scene.actors[scene.actors[event.actor].owner or 0]
            t = event.owner_gone_s + 0.5
            assert owner.number not in {v.actor for v in scene.visible_at(t, 0.01)}
            assert event.actor in {p.actor for p in scene.placements(t)}
    assert found >= 4


def test_patch_labels_cover_their_things(scene: Scene) -> None:
    event = scene.events[0]
    t = (event.start_s + event.end_s) / 2
    visible = scene.visible_at(t)[-1]
    kinds, colours = patch_labels(scene, t, 8)
    assert kinds.shape == colours.shape == (8, 8)
    assert kinds.dtype == np.int8
    x0, y0, x1, y1 = visible.box
    row, column = int((y0 + y1) / 2 * 8), int((x0 + x1) / 2 * 8)
    assert (KINDS[kinds[row, column]], COLOURS[colours[row, column]]) == (visible.kind, visible.colour)
    assert ((kinds >= 0) == (colours >= 0)).all()
    assert (kinds < 0).any()


def test_picture_size_does_not_change_what_is_drawn() -> None:
    scene = Scene.from_seed(4, duration_s=60, style="fixed")
    t = scene.events[0].start_s + 2
    small, large = draw(scene, t, 160, 90), draw(scene, t, 640, 360)
    assert large.shape == (360, 640, 3)
    assert large.dtype == np.uint8
    shrunk = large.reshape(90, 4, 160, 4, 3).mean((1, 3))
    assert np.abs(shrunk - small).mean() < 6
    assert backdrop(scene.layout, 64, 36).size == (64, 36)


def test_camera_faults_keep_the_shape_and_repeat_by_seed() -> None:
    image = draw(Scene.from_seed(0, duration_s=30), 5.0, *SIZE)
    for seed in range(20):
        one, two = (degrade(image, np.random.default_rng(seed)) for _ in range(2))
        assert one.shape == image.shape
        assert one.dtype == np.uint8
        assert np.array_equal(one, two)
        assert np.abs(one.astype(int) - image).mean() < 45


def test_too_short_scene_is_refused() -> None:
    with pytest.raises(ValueError, match="20 s"):
        Scene.from_seed(0, duration_s=5)


def test_written_video_has_its_truth_file(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    steps: list[tuple[int, int]] = []
    log = write_video(
        tmp_path / "w.mp4", seed=7, minutes=0.5, rate_hz=2, size=SIZE, on_frame=lambda *step: steps.append(step)
    )
    with av.open(str(tmp_path / "w.mp4")) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 60
    assert steps[-1] == (60, 60)
    assert (frames[0].width, frames[0].height) == SIZE
    assert frames[-1].time == pytest.approx(29.5)
    scene = Scene.from_seed(7, duration_s=30, split="eval")
    written = json.loads(log.read_text())
    assert [event["start_s"] for event in written["events"]] == [event.start_s for event in scene.events]
    start_unix, asked = read_truth(log)
    assert start_unix == written["start_unix"]
    assert len(asked) == len(written["questions"]) > 0
    assert json.loads(json.dumps(truth(scene, 2))) == written


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("w.mp4", {"size": (161, 90)}, "even"),
        ("w.mp4", {"rate_hz": 0.0}, "rate"),
        ("w.avi", {}, "end in"),
        ("w.mp4", {"minutes": 0.1}, "20 s"),
    ],
)
def test_impossible_video_options_are_refused(tmp_path: Path, name: str, options: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        write_video(tmp_path / name, **{"seed": 1, "minutes": 0.5, **options})
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "else"}', '{"format": "vilamp-world/1", "start_unix": 0}']
)
def test_file_that_is_not_a_truth_log_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "log.json").write_text(text)
    with pytest.raises(ValueError):  # noqa: PT011 - ValueError of the reader or of json
        read_truth(tmp_path / "log.json")


def test_drawing_needs_neither_torch_nor_av() -> None:
    code = (
        "import sys; sys.modules.update(av=None, torch=None); "
        "from model.world.scene import Scene; from model.world.draw import draw; from model.world import video; "
        "print(draw(Scene.from_seed(1, duration_s=30), 5.0).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(90, 160, 3)"
