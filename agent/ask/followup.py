"""Follow-up questions: which pictures of the answer before are shown again, and from where the search goes on.

The frames of an answer come back with the conversation, as the `annotations` of its message: the agent stores no
conversations.
"""

import re
from dataclasses import replace

from agent.ask.question import Question
from agent.ask.scope import whole_stretch
from memory.errors import FrameGone
from memory.store import MemoryStore

MAX_WORDS = 12  # a longer question names what it is about
_THEN = re.compile(
    r"\b(?:and then|then what|what (?:happened |came )?next|after (?:that|this)|afterwards|und dann|was (?:geschah|passierte|"
    r"war) dann|danach|nachher|y (?:luego|después|entonces)|qué pasó después|et (?:après|ensuite|puis)|ensuite|après "
    r"(?:ça|cela))\b",
    re.IGNORECASE,
)
_BEFORE = re.compile(
    r"\b(?:he|she|it|they|him|her|them|his|hers|its|their|theirs|that one|those|the same|er|ihn|ihm|ihr|sein\w*|dieselben?|"
    r"él|ella|ellos|ellas|suyo|il|elle|ils|elles|lui|leur)\b",
    re.IGNORECASE,
)


def frames_before(question: Question) -> tuple[int, ...]:
    """Return the frame ids of the answer before, if the question goes on from it; else ()."""
    said = question.earlier[-1] if question.earlier else None
    if said is None or not said.frames or len(question.text.split()) > MAX_WORDS:
        return ()
    is_read_so = question.reading is not None and question.reading.kind == "follow-up"
    return said.frames if is_read_so or _THEN.search(question.text) or _BEFORE.search(question.text) else ()


def continued(store: MemoryStore, question: Question, asked: Question) -> Question:
    """Return the question with its search beginning where the answer before ended, if it asks what came then. Blocks.

    asked: the question before its words were understood. Nothing changes if the asker's fields or words name times;
    times that an earlier question named still end the search. The cameras are those of the answer before, of those that
    may be asked about, unless some were named.
    """
    found, named = _THEN.search(question.text), question.words
    own_words = [each for each in (named.time_words if named else ()) if each.lower() in question.text.lower()]
    if found is None or asked.after is not None or asked.before is not None or own_words or not frames_before(question):
        return question
    records = []
    for frame_id in frames_before(question):
        try:
            records.append(store.record(frame_id))
        except FrameGone:
            continue
    seen = [record for record in records if record.camera in question.cameras]
    if not seen:
        return question
    question = whole_stretch(question)
    cameras, named = question.cameras, question.words
    if question.cameras_by_default and not (named and named.cameras):
        of_before = {record.camera for record in seen}
        cameras = tuple(camera for camera in cameras if camera in of_before)
    after = max(record.time for record in seen)
    if question.before is not None and after >= question.before:
        return question
    words = replace(named, words=(*named.words, found[0])) if named else None
    return replace(question, cameras=cameras, after=max(after, question.after or 0.0), words=words)
