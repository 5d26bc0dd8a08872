"""Our own reader: kinds, things and details of questions, in several languages; odd text; without the encoder."""

import os
import threading
import time

import pytest

from agent.reading.encoder import MAX_CHARS, SentenceEncoder, cleaned
from agent.reading.own import OwnReader
from agent.reading.types import KINDS, Known, Reading

KNOWN = Known(now=0.0, cameras=())


@pytest.fixture(scope="module")
def reader() -> OwnReader:
    return OwnReader.load()


@pytest.fixture(scope="module")
def letters() -> OwnReader:
    """The reader without the sentence encoder."""
    return OwnReader(None, "no encoder")


@pytest.mark.parametrize(
    ("question", "kind", "things"),
    [
        ("what do you see right now?", "present", ()),
        ("did a delivery van come by?", "existence", ("delivery van",)),
        ("when did the red lorry arrive?", "when", ("red lorry",)),
        ("when was the first bus of the day?", "first", ("bus",)),
        ("when did you last see the dog?", "last", ("dog",)),
        ("how many bikes drove past?", "count", ("bike",)),
        ("how long did the taxi stay?", "duration", ("taxi",)),
        ("where was the blue ball?", "where", ("blue ball",)),
        ("was there more traffic today than yesterday?", "compare", None),
        ("is the gate still open?", "state", ("gate",)),
        ("what colour was the jacket?", "describe", ("jacket",)),
        ("show me the lady in the red coat", "find", ("lady in the red coat",)),
        ("what happened last night?", "overview", ()),
        ("and then?", "follow-up", ()),
        ("Wann kam das gelbe Auto?", "when", ("yellow car",)),
        ("¿Cuántos perros pasaron?", "count", ("dog",)),
        ("Où était la voiture rouge ?", "where", ("red car",)),
    ],
)
def test_questions_are_read(reader: OwnReader, question: str, kind: str, things: tuple[str, ...] | None) -> None:
    read = reader.read_now(question)
    assert read.kind == kind
    assert things is None or read.things == things
    assert 0.5 <= read.certainty <= 1


@pytest.mark.parametrize(
    ("question", "relation", "things"),
    [
        ("did the dog come before or after the car?", "before or after", ("dog", "car")),
        ("did the dog come before the car?", "before", ("dog", "car")),
        ("did the dog come after the car?", "after", ("dog", "car")),
        ("which came first, the dog or the car?", "first", ("dog", "car")),
        ("which came last, the dog or the car?", "last", ("dog", "car")),
    ],
)
def test_order_has_a_relation(reader: OwnReader, question: str, relation: str, things: tuple[str, ...]) -> None:
    read = reader.read_now(question)
    assert (read.kind, read.relation, read.things) == ("order", relation, things)


@pytest.mark.parametrize(
    ("question", "place"),
    [
        ("where was the ball?", ""),
        ("on which side was the ball?", "side"),
        ("in which room was the ball?", "room"),
        ("which camera saw the ball?", "camera"),
    ],
)
def test_where_has_a_place(reader: OwnReader, question: str, place: str) -> None:
    assert (reader.read_now(question).kind, reader.read_now(question).place) == ("where", place)


@pytest.mark.parametrize(
    ("question", "at_least"),
    [
        ("how many dogs came?", None),
        ("were there more than two dogs?", 3),
        ("were there at least two dogs?", 2),
        ("gab es mehr als drei Hunde?", 4),
    ],
)
def test_a_count_may_have_a_bound(reader: OwnReader, question: str, at_least: int | None) -> None:
    read = reader.read_now(question)
    assert (read.kind, read.things, read.at_least) == ("count", ("dog",), at_least)


@pytest.mark.parametrize(
    "question", ["write me a poem about dogs", "what is the capital of Peru?", "asdf qwer", "?", ""]
)
def test_what_no_camera_can_answer_is_refused_with_offers(reader: OwnReader, question: str) -> None:
    read = reader.read_now(question)
    assert read.kind in ("unclear", "out of scope")
    assert len(read.offers) == 3
    for offer in read.offers:  # what is offered is understood
        assert reader.read_now(offer).kind not in ("unclear", "out of scope"), offer


@pytest.mark.parametrize(
    ("phrase", "drawn"),
    [
        ("red lorry", "red truck"),
        ("lady with a suitcase", "person with a bag"),
        ("man in red", "red person"),
        ("Fahrrad", "bicycle"),
        ("bicyle", "bicycle"),
        ("cat", None),
        ("umbrella", None),
        ("police car", None),
    ],
)
def test_things_become_those_of_the_drawn_world(reader: OwnReader, phrase: str, drawn: str | None) -> None:
    assert reader.things.drawn(phrase) == drawn


ODD = [
    "\ud800",
    "a\0b",
    "\u200b\u202e",
    "🚗" * 500,
    "word " * 2000,
    "ПРИВЕТ как дела",
    "车在哪里",
    "((((",
    "{thing}",
    "\n\t",
]


@pytest.mark.parametrize("text", ODD)
async def test_odd_text_is_read_without_failing(reader: OwnReader, letters: OwnReader, text: str) -> None:
    for each in (reader, letters):
        read = await each.read(text, KNOWN)
        assert read.kind in KINDS
        assert 0 <= read.certainty <= 1


def test_text_is_cut_and_cleaned_before_it_is_encoded() -> None:
    assert len(cleaned("x" * 10_000)) == MAX_CHARS
    assert cleaned("a\0b\ud800  c\n") == "a b? c"


def test_the_encoder_leaves_the_number_of_threads_alone() -> None:
    before = os.environ.get("OMP_NUM_THREADS")
    SentenceEncoder()
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_threads_read_the_same(reader: OwnReader) -> None:
    found: list[Reading] = []
    threads = [threading.Thread(target=lambda: found.append(reader.read_now("wie viele Hunde?"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1


def test_reading_is_quick(reader: OwnReader) -> None:
    question = (
        "please tell me how many people with a yellow umbrella walked past the gate since this morning, would you"
    )
    reader.read_now(question)
    began = time.process_time()
    for _ in range(5):
        reader.read_now(question)
    assert (time.process_time() - began) / 5 < 0.3  # 0.04 on an idle core


def test_without_the_encoder_english_is_still_read(letters: OwnReader) -> None:
    assert letters.degraded
    assert letters.read_now("when did the red car arrive?").kind == "when"
    assert letters.read_now("how many dogs came by?").things == ("dog",)


@pytest.mark.parametrize(
    ("question", "kind", "things"),
    [
        ("was it before or after the blue bag that the red car turned up?", "order", ("red car", "blue bag")),
        ("before the blue bag, did the red car come?", "order", ("red car", "blue bag")),
        ("did the red car come before the blue bag?", "order", ("red car", "blue bag")),
        ("was the box red or blue?", "describe", ("box",)),
        ("which part of the screen was the orange box in?", "where", ("orange box",)),
    ],
)
def test_a_thing_is_told_from_what_is_said_of_it(
    reader: OwnReader, question: str, kind: str, things: tuple[str, ...]
) -> None:
    read = reader.read_now(question)
    assert (read.kind, read.things) == (kind, things)


def test_misspelt_words_are_corrected_and_rare_ones_kept(reader: OwnReader) -> None:
    assert reader.read_now("most recnt sighting of the dog?").kind == "last"
    assert reader.read_now("how mnay cars droev past?").kind == "count"
    assert reader.read_now("when did the zamboni arrive?").things == ("zamboni",)
    assert reader.read_now("how do I get stains out of wool?").kind == "out of scope"
