"""The tools over memory: browse, search and look, with the built-in model and with a vision server."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.ask.answerer import Tally
from agent.ask.question import Question
from agent.ask.scope import Scope
from agent.errors import NoFrames
from tests.support.agents import START
from tests.support.drives import rover
from tests.support.remote import WHO, asking, openai, parts_of
from tests.support.vlm_server import Spy, spying


@pytest.fixture(scope="module")
def spy() -> Iterator[Spy]:
    with spying() as spy:
        yield spy


async def test_browse_finds_what_came_without_being_told_what(tmp_path: Path) -> None:
    """The robot of this drive passes a green box at 39 to 45 s and a purple dog at 71 to 75 s."""
    async with rover(tmp_path) as agent:
        browsed = await agent.answering.tools.browse(Scope(("rover",)))
        assert browsed.num_frames == 100
        spans = [(each.start - START, each.end - START) for each in browsed.episodes]
        for first, last in ((39, 45), (71, 75)):
            assert any(start <= first + 2 and last - 2 <= end <= last + 6 for start, end in spans), spans
        assert len(spans) < 10
        with pytest.raises(NoFrames):
            await agent.answering.tools.browse(Scope(("rover",), before=START - 1))


async def test_search_and_look_find_a_thing_and_see_it(tmp_path: Path) -> None:
    async with rover(tmp_path) as agent:
        tools = agent.answering.tools
        found = await tools.search("did any purple dog ever come?", Scope(("rover",)), 3)
        assert len(found.evidence) == 3
        best = max(found.evidence, key=lambda each: each.score)
        assert 69 <= best.time - START <= 77
        tally = Tally()
        gone = 10**6
        asked = Question("did any purple dog ever come?", ("rover",))
        [looked] = await tools.look([best.frame_id, gone], asked, tally)
        assert looked.text.lower().startswith("yes")
        assert tally.prompt_tokens > 0
        [looked] = await tools.look([best.frame_id], replace(asked, text="did any pink bicycle ever come?"), tally)
        assert looked.text.lower().startswith("no")
        assert await tools.look([gone], asked, tally) == ()


async def test_a_server_looks_at_many_frames_in_several_calls(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy)) as agent:
        spy.forget()
        window = agent.store.window(("door",))
        tally = Tally()
        looked = await agent.answering.tools.look(window.frame_ids.tolist(), WHO, tally)
        assert [each.text for each in looked] == ["I see 8 pictures.", "I see 4 pictures."]
        assert [len(each.rows) for each in looked] == [8, 4]
        assert [len(parts_of(sent)[1]) for sent in spy.seen()] == [8, 4]
        assert tally.prompt_tokens == 100 + 8 + 100 + 4
