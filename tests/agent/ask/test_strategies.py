"""Answers in steps and from visits, by an agent with the built-in model, about a drawn robot's drive."""

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from agent.app import Agent
from agent.ask.answer import ONE_AT_A_TIME
from agent.ask.keyframes import Selection, every_frame
from agent.ask.question import Evidence, Question, Said
from agent.ask.sentences import number_word, verdict_of
from agent.ask.strategies import NOT_LOOKED
from agent.errors import NoAnswer
from agent.evaluation.arms import Asker
from agent.evaluation.run import zones_of
from agent.keep.memory import open_memory
from agent.reading.types import Reading, ScopeWords
from agent.runtime.lanes import Priority
from agent.runtime.stopwatch import Stopwatch
from agent.times import format_clock
from agent.web.app import build_app
from agent.web.auth import Auth
from model.pointing import SIDES, side_during_stay
from model.world.things import COLOURS, KINDS
from model.world.visits import look
from streaming.frame import Frame
from tests.support.agents import START, ListSource, remember, running, settings_in
from tests.support.drives import NUM_FRAMES, Drive, builtin, drive, rover

BEGAN = 16 * 3600 + 4 * 60 + 5  # START on the clock
PLURALS = {"box": "boxes", "person": "people"}
ORDER = Question("Did you see the purple dog before or after the green box?", ("rover",))
ROOM = Question("What room was the green person in?", ("rover",))
ROOM_COUNT = replace(ROOM, text="How many dogs came?")
NEVER = Question("In which room was the pink bicycle?", ("rover",))


async def test_order_is_answered_from_two_times(tmp_path: Path) -> None:
    async with rover(tmp_path) as agent:
        answer = await agent.answering.answer(ORDER)
        assert answer.text.startswith("The purple dog came at 16:05:")
        assert ", the green box came at 16:04:" in answer.text
        assert answer.text.endswith(": after.")
        assert len(answer.pieces) == 3  # each as soon as it is known
        seen = [each.time - START for each in answer.seen.evidence]
        assert any(39 <= time <= 45 for time in seen)
        assert any(71 <= time <= 75 for time in seen)
        assert seen == sorted(set(seen))
        assert re.fullmatch(
            r"answered from visits \(answering.in_steps\): \d+ pictures were looked at one by one",
            answer.finished.notes[0],
        )
        assert answer.finished.finish_reason == "stop"
        assert answer.finished.prompt_tokens > answer.finished.completion_tokens > 16
        assert (
            await agent.answering.answer(replace(ORDER, text="Was the green box seen before the purple dog?"))
        ).text[-6:] == ": yes."
        first = await agent.answering.answer(replace(ORDER, text="What came first, the purple dog or the green box?"))
        assert verdict_of(first.text) == "the green box"


async def test_place_is_answered_from_the_pose_of_the_frame(tmp_path: Path) -> None:
    async with rover(tmp_path) as agent:
        answer = await agent.answering.answer(ROOM)
        assert answer.text.startswith("The green person was seen at 16:04:")
        assert ": hall, x " in answer.text
        assert answer.text.endswith(" degrees.")
        assert (await agent.answering.answer(NEVER)).text == "I saw no pink bicycle."
        never = "Did the green person come before or after the pink bicycle?"
        assert (await agent.answering.answer(replace(ROOM, text=never))).text.endswith(". I saw no pink bicycle.")
        await remember(agent, "yard", 8, start=START - 100_000)
        both = replace(ROOM, cameras=("rover", "yard"))
        answer = await agent.answering.answer(both)
        assert answer.text.startswith("The green person was seen at 2026-11-22 16:04:")  # two days are remembered
        assert answer.text.endswith(" degrees (camera rover).")
        answer = await agent.answering.answer(replace(both, text="Which camera saw the green person?"))
        assert verdict_of(answer.text) == "camera rover"


async def test_side_is_answered_from_the_patches(tmp_path: Path) -> None:
    async with rover(tmp_path, poses=False) as agent:
        for text in ("On which side did you see the green box?", "Where was the green box?"):
            answer = await agent.answering.answer(replace(ROOM, text=text))
            assert re.fullmatch(
                r"The green box was seen at 16:04:\d\d: (in|on|from) the .* of the picture\.", answer.text
            )
            assert verdict_of(answer.text) in sides_of_the_green_box(), answer.text
        assert num_outlined(answer.seen.evidence) >= 3
        never = await agent.answering.answer(replace(NEVER, text="Where in the picture was the pink bicycle?"))
        assert never.text == "I saw no pink bicycle."
        assert num_outlined(never.seen.evidence) == 0
        await remember(agent, "yard", 8, start=START)
        both = replace(ROOM, cameras=("rover", "yard"), text="Where was the green box?")
        assert (await agent.answering.answer(both)).text.endswith(" of the picture (camera rover).")


async def test_where_for_a_robot_is_a_place_in_the_building(tmp_path: Path) -> None:
    async with rover(tmp_path) as agent:
        assert ": hall, x " in (await agent.answering.answer(replace(ROOM, text="Where was the green person?"))).text
        side = await agent.answering.answer(replace(ROOM, text="On which side of the picture was the green person?"))
        assert side.text.endswith(" of the picture.")


async def test_side_is_found_from_pictures_encoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches that were let go are made anew from the JPEGs; without these nothing is said of the place."""
    async with rover(tmp_path, poses=False) as agent:
        asked = replace(ROOM, text="On which side did you see the green box?")
        whole = (await agent.answering.answer(asked)).text
        assert whole.endswith(" of the picture.")
        window = agent.store.window(("rover",))
        monkeypatch.setattr("agent.ask.local.without_patches", lambda window, rows: [int(row) for row in rows])
        rows = np.arange(36, 50)
        read, presences = await agent.answerer.pointed(window, rows, "when did the green box come?", again=True)
        assert read.tolist() == rows.tolist()
        assert side_during_stay(presences, 6, window.times[read]) in whole
        monkeypatch.setattr("agent.ask.local.decoded", lambda window, rows: {})
        assert await agent.answerer.pointed(window, rows, "when did the green box come?", again=True) is None


async def test_existence_is_answered_with_the_time(tmp_path: Path) -> None:
    async with rover(tmp_path) as agent:
        for text in (
            "Have you seen a purple dog?",
            "has any purple dog passed by?",
            "Were there any purple dogs so far?",
        ):
            answer = await agent.answering.answer(replace(ROOM, text=text))
            told = re.fullmatch(r"Yes, a purple dog came at (16:05:\d\d)\.", answer.text)
            assert told, answer.text
            assert 69 <= seconds_of(told[1]) - BEGAN <= 77
        assert (await agent.answering.answer(replace(ROOM, text="has a pink bicycle passed?"))).text == (
            "No, I saw no pink bicycle."
        )
        await remember(agent, "yard", 8, start=START)
        both = replace(ROOM, cameras=("rover", "yard"), text="Have you seen a purple dog?")
        assert (await agent.answering.answer(both)).text.endswith(" (camera rover).")


async def test_first_and_last_time_are_ends_of_visits(tmp_path: Path) -> None:
    """They are the first and the last frame of the visits that a count finds."""
    async with rover(tmp_path) as agent:
        several = [(text, thing, spans) for text, thing, spans in visits_of_the_drive() if spans]
        for _, thing, spans in several:
            for which, (first, last) in (("first", spans[0]), ("last", spans[-1])):
                answer = await agent.answering.answer(replace(ROOM, text=f"When was a {thing} {which} seen?"))
                told = re.fullmatch(rf"An? {thing} was {which} seen at (16:\d\d:\d\d)\.", answer.text)
                assert told, answer.text
                assert first - 2 <= seconds_of(told[1]) - BEGAN <= last + 2, answer.text
                assert told[1] in {
                    format_clock(each.time, "UTC") for each in answer.seen.evidence
                }  # what is told is cited
        assert len(several) >= 3
        gone = await agent.answering.answer(replace(ROOM, text="When did you last see a pink bicycle?"))
        assert gone.text == "I saw no pink bicycle."


def sides_of_the_green_box() -> set[str]:
    """By the drawn world: where it stood, or how it went."""
    scene = drive()[0].scene
    assert scene is not None
    places = [
        SIDES[min(2, int((v.box[0] + v.box[2]) / 2 * 3))]
        for t in range(39, 46)
        for v in scene.visible_at(float(t))
        if (v.kind, v.colour) == ("box", "green")
    ]
    moved = {f"from the {a} to the {b}" for a in places for b in places if a != b}
    return {max(places, key=places.count)} | moved


def num_outlined(evidence: Sequence[Evidence]) -> int:
    """Frames with an outline; each must be around the green box of that second."""
    scene = drive()[0].scene
    assert scene is not None
    outlined = [each for each in evidence if each.boxes]
    for each in outlined:
        seen = scene.visible_at(round(each.time - START), min_fraction=0.02)
        at = [v.box for v in seen if (v.kind, v.colour) == ("box", "green")]
        left, top, right, bottom = each.boxes[0]
        x, y = (left + right) / 2, (top + bottom) / 2
        assert any(x0 - 0.06 <= x <= x1 + 0.06 and y0 - 0.06 <= y <= y1 + 0.06 for x0, y0, x1, y1 in at), (each, at)
    return len(outlined)


async def test_a_count_lists_every_visit(tmp_path: Path) -> None:
    async with rover(tmp_path) as agent:
        for text, thing, spans in visits_of_the_drive():
            answer = await agent.answering.answer(replace(ROOM, text=text))
            assert verdict_of(answer.text) == number_word(len(spans)), text
            seen = [each.time - START for each in answer.seen.evidence]
            told = re.findall(r"16:\d\d:\d\d", answer.text)
            assert set(told) <= {format_clock(START + time, "UTC") for time in seen}  # what is told is cited
            if spans:
                assert all(
                    abs(seconds_of(clock) - BEGAN - first) <= 2 for clock, (first, _) in zip(told, spans, strict=True)
                )
                assert all(any(first - 1 <= time <= last + 1 for first, last in spans) for time in seen)
            else:
                assert answer.text == f"I saw no {thing}: zero times."
                assert seen  # those that were looked at in vain
            assert answer.seen.num_frames == NUM_FRAMES
            [note] = answer.finished.notes
            assert re.fullmatch(r"answered from visits .*: \d+ pictures were looked at one by one", note)
            assert answer.finished.prompt_tokens > 0
            assert "look" in answer.finished.timings_ms


async def test_a_count_over_several_cameras_says_which(tmp_path: Path) -> None:
    async with rover(tmp_path) as agent:
        await agent.cameras.watch("yard", Drive(agent, "yard", False, START + 7))
        await agent.encoded()
        both = replace(ROOM, cameras=("rover", "yard"), text="How many purple dogs came?")
        answer = await agent.answering.answer(both)
        assert verdict_of(answer.text) == "two"
        assert "(camera rover) and 16:05:2" in answer.text
        assert answer.text.endswith(" (camera yard): two times.")
        assert {each.camera for each in answer.seen.evidence} == {"rover", "yard"}
        after = replace(both, after=START + 60, before=START + 70)
        assert verdict_of((await agent.answering.answer(after)).text) == "zero"


async def test_foreign_pictures_are_not_counted(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, model={"num_threads": 1}, cameras={"yard": {}})
    async with Agent(settings, open_memory(settings, builtin()), builtin()).running() as agent:
        await agent.cameras.watch(
            "yard", ListSource("yard", [Frame(START + n, noise(n), "arrival") for n in range(70)])
        )
        await agent.encoded()
        for text in ("How many dogs came?", "Did a dog come?", "Where was the dog?", "When did you last see a dog?"):
            answer = await agent.answering.answer(Question(text, ("yard",)))
            assert answer.text.startswith("I cannot tell"), text
            assert not any(each.boxes for each in answer.seen.evidence), text


def seconds_of(clock: str) -> int:
    hours, minutes, seconds = map(int, clock.split(":"))
    return 3600 * hours + 60 * minutes + seconds


def noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (96, 96, 3), np.uint8)


def visits_of_the_drive() -> list[tuple[str, str, list[tuple[float, float]]]]:
    """Questions with the thing and its visits, from the world's own log; things seen too little to be sure of are left out."""
    scene = drive()[0].scene
    assert scene is not None
    seen = look(scene, np.arange(float(NUM_FRAMES)))
    found = []
    for kind in ("dog", "person", "truck", "box", "bicycle"):
        for colour in COLOURS:
            visits = seen.of(kind, colour)
            if seen.is_sure(kind, colour) and (visits or colour == "pink"):
                spans = [(visit.first_s, visit.last_s) for visit in visits]
                found.append((f"How many times did a {colour} {kind} come?", f"{colour} {kind}", spans))
    for kind in KINDS:
        spans = sorted((visit.first_s, visit.last_s) for visit in seen.of(kind, None))
        if seen.is_sure(kind, None) and len(spans) > 1 and apart(spans):
            found += [(f"How many {PLURALS.get(kind, kind + 's')} came?", kind, spans)]
    assert {len(spans) for _, _, spans in found} >= {0, 1, 2}
    return found


def apart(spans: list[tuple[float, float]]) -> bool:
    """Of two at once, or nearly so, a count has one."""
    return all(after[0] - before[1] > 6 for before, after in pairwise(spans))


async def test_evaluation_scores_what_the_product_says(tmp_path: Path) -> None:
    """The verdicts of `vilamp eval` are those of the product, on every question of this drive that is answered in steps."""
    clip, pictures = drive()
    model = builtin()
    asker = Asker(
        model,
        model.encode([np.asarray(each) for each in pictures]),
        START + clip.times - clip.start_unix,
        zones_of(clip),
    )
    arm, asked = Selection.of(model.info.defaults), 0
    async with rover(tmp_path) as agent:
        for question in clip.questions:
            if asker.is_composed(question.text):
                answer = await agent.answering.answer(replace(ROOM, text=question.text))
                said = verdict_of(answer.text)
                scored = verdict_of((await asker.answer(question.text, arm, in_steps=True)).text)
                assert (said.split(",")[0] if question.family == "room" else said) == scored, question.text
                asked += 1
    assert asked >= 6


async def test_asker_can_limit_the_tokens_of_a_composed_answer(tmp_path: Path) -> None:
    async with rover(tmp_path, answering={"max_new_tokens": 1}) as agent:
        whole = await agent.answering.answer(ORDER)
        assert whole.text.endswith(": after.")  # words that cost nothing have no limit of their own
        assert whole.finished.finish_reason == "stop"
        for text in (ORDER.text, "How many purple dogs came?"):
            cut = await agent.answering.answer(replace(ORDER, text=text, max_new_tokens=6, temperature=1.5))
            assert cut.finished.finish_reason == "length"
            assert cut.finished.completion_tokens == 6
            assert cut.text.strip()[:4] in ("The ", "A pu")


async def test_count_has_the_common_notes(tmp_path: Path) -> None:
    async with rover(tmp_path) as agent:
        said = (Said("user", "Is a dog here?"), Said("assistant", "no"))
        answer = await agent.answering.answer(replace(ROOM, text="How many dogs came?", earlier=said))
        assert ONE_AT_A_TIME in answer.finished.notes


async def test_without_a_pose_the_camera_is_named(tmp_path: Path) -> None:
    async with rover(tmp_path, poses=False) as agent:
        answer = await agent.answering.answer(ROOM)
        assert answer.text.endswith(": camera rover, which sent nothing of where it was.")


async def test_steps_need_the_setting_and_a_model_that_reads_times(tmp_path: Path) -> None:
    async with rover(tmp_path, answering={"max_new_tokens": 24, "in_steps": False}) as agent:
        assert not (await agent.answering.answer(ORDER)).text.startswith("The purple dog came")
    async with running(tmp_path / "tiny") as agent:  # a model that reads no times
        assert agent.answering.search_texts(await agent.answering.read(ORDER)) == ("purple dog", "green box")


async def test_judges_questions_have_no_steps(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, model={"num_threads": 1})
    async with Agent(settings, open_memory(settings, builtin()), builtin()).running() as agent:
        evers = ("did any purple dog ever come?", "did any green box ever come?")
        texts = agent.answering.search_texts
        assert texts(await agent.answering.read(ORDER)) == evers
        assert texts(replace(ORDER, priority=Priority.JUDGE)) == (ORDER.text,)
        assert texts(replace(ORDER, text="Is a dog here?")) == ("Is a dog here?",)


async def test_without_a_language_model_relevance_alone_answers_in_milliseconds(tmp_path: Path) -> None:
    async with rover(tmp_path, answerer={"kind": "none"}) as agent:
        for text, thing, spans in visits_of_the_drive():
            answer = await agent.answering.answer(replace(ROOM, text=text))
            assert answer.text.startswith(("Something like a", "Nothing like a")), answer.text
            assert "saw" not in answer.text
            assert NOT_LOOKED in answer.finished.notes
            if len(spans) == 1:
                assert ": at least one time." in answer.text, (thing, answer.text)
        took = [(await agent.answering.answer(ROOM_COUNT)).finished.timings_ms["total"] for _ in range(5)]
        assert min(took) < 50
        last = await agent.answering.answer(replace(ROOM, text="When was a green box last seen?"))
        told = re.fullmatch(r"Something like a green box last stood out at (16:04:\d\d)\.", last.text)
        assert told
        assert 39 - 2 <= seconds_of(told[1]) - BEGAN <= 45 + 2
        assert last.seen.visits
        for text in ("What colour was the box?", ORDER.text):
            with pytest.raises(NoAnswer, match="no language model"):
                await agent.answering.answer(replace(ROOM, text=text))


async def test_overview_of_the_built_in_model_names_what_came(tmp_path: Path) -> None:
    async with rover(tmp_path) as agent:
        asked = replace(ROOM, text="What happened?", reading=Reading("overview"))
        answer = await agent.answering.answer(asked)
        for thing in ("green box", "purple dog", "green person"):
            assert thing in answer.text.lower(), answer.text
        told = re.findall(r"16:\d\d:\d\d", answer.text)
        assert set(told) <= {format_clock(each.time, "UTC") for each in answer.seen.evidence}
        assert any("in which something changed" in note for note in answer.finished.notes)


async def test_kinds_that_rules_do_not_know_are_answered_when_read(tmp_path: Path) -> None:
    """Readings as a reader gives them; the words of the question do not matter then."""
    async with rover(tmp_path) as agent:

        async def told(kind: Any, *things: str, **more: Any) -> str:
            asked = replace(ROOM, text="Hm?", reading=Reading(kind, things, **more))
            return (await agent.answering.answer(asked)).text

        assert re.fullmatch(r"A purple dog came at 16:05:1\d\.", await told("when", "purple dog"))
        assert re.fullmatch(r"A purple dog was seen at 16:05:1\d\.", await told("find", "purple dog"))
        assert re.fullmatch(
            r"A green box was there from 16:04:4\d to 16:04:5\d: \d s\.", await told("duration", "green box")
        )
        assert (await told("count", "purple dog", at_least=2)).startswith("No. A purple dog came at 16:05:1")
        more = await told("compare", "purple dog", "pink bicycle")
        assert more.endswith(" I saw no pink bicycle: zero times. More often: the purple dog.")
        assert (await told("state", "purple dog")).startswith("No, a purple dog was last seen at 16:05:")


async def test_pictures_of_an_offline_camera_are_dated(tmp_path: Path) -> None:
    async with rover(tmp_path) as agent:
        asked = replace(ROOM, text="What can you see right now?")
        notes = (await agent.answering.answer(asked)).finished.notes
        assert any(
            re.fullmatch(r"the newest picture of rover is .* old: the camera is offline", note) for note in notes
        )
    async with rover(tmp_path / "now", start=time.time() - NUM_FRAMES) as agent:
        assert not any("offline" in note for note in (await agent.answering.answer(asked)).finished.notes)


@pytest.mark.parametrize("rule", ["visits", "dks", "top_k"])
async def test_the_best_frame_is_shown_and_no_place_is_kept_for_the_newest(tmp_path: Path, rule: Any) -> None:
    async with rover(tmp_path) as agent:
        window = agent.store.window(("rover",))
        for text in ("What colour was the box?", "Describe the dog.", "Something else entirely"):
            asked = replace(ROOM, text=text, reading=Reading("describe"), selection=rule, num_keyframes=4)
            answer = await agent.answering.answer(asked)
            scores = every_frame(window, (await agent.answering.embed(text)).unit).scores
            shown = [each.frame_id for each in answer.seen.evidence]
            assert int(window.frame_ids[int(np.argmax(scores))]) in shown
            assert not any(each.kind == "recent" for each in answer.seen.evidence)


async def test_two_stretches_of_time_are_compared(tmp_path: Path) -> None:
    async with rover(tmp_path) as agent:
        reading = Reading("compare", ("purple dog",))
        words = ScopeWords("more dogs?", others=((START, START + 50),))
        asked = replace(ROOM, text="Hm?", after=START + 51, reading=reading, words=words)
        inquiry = await agent.answering._inquiry(asked, agent.store.window(("rover",), START + 51), None, Stopwatch())
        pieces = [each async for each in agent.answering._strategies.events(inquiry) if isinstance(each, str)]
        text = "".join(pieces)
        assert "A purple dog came at 16:05:1" in text
        assert "I saw no purple dog: zero times." in text
        assert re.search(r"More often: from 2026-11-22 16:04:56 UTC to .*\.$", text), text


async def test_limits_on_looking_end_a_search_and_say_so(tmp_path: Path) -> None:
    async with rover(tmp_path, answering={"max_pictures": 3}) as agent:
        answer = await agent.answering.answer(replace(ROOM, text="How many dogs came?"))
        assert "3 pictures were looked at" in "".join(answer.finished.notes)
        assert "at least" in answer.text or answer.text.startswith("I saw no dog")


async def test_the_timeline_marks_frames_of_every_thing_asked_about(tmp_path: Path) -> None:
    async with rover(tmp_path) as agent:
        auth = Auth.open(tmp_path, enabled=False, extra=())
        app = build_app(agent, auth, agent.settings, keep_alive_s=1.0, url="http://agent")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://agent") as http:
            shown = await http.get("/v1/cameras/rover/timeline", params={"question": ORDER.text})
        marked = [each["time"] - START for each in shown.json()["keyframes"]]
        for first, last in ((39, 45), (71, 75)):
            assert any(first <= time <= last for time in marked)
