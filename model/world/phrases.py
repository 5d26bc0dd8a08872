"""The wording of questions. Training and evaluation use the same words, but never the same sentence.

Placeholders: `{thing}` is "red car" or "car"; `{come}` is "come", or "open" for a door; `{a}` and `{b}` are two things;
`{at}` is where the camera is ("at the gate", "in the kitchen").
"""

from model.world.things import LAYOUTS, ZONES, Split

Phrases = dict[Split, tuple[str, ...]]
AT = {place: f"{'at' if place == 'gate' else 'in'} the {place}" for place in (*LAYOUTS, *ZONES)}

PRESENT: Phrases = {
    "train": ("what is here now?", "what can you see now?", "what is in the picture now?",
              "what is there at the moment?", "tell me what you see right now", "what is {at} now?",
              "what can you see {at} at the moment?"),
    "eval": ("what can you see at the moment?", "what is in the picture right now?", "tell me what is here now",
             "what can you see {at} right now?"),
}  # fmt: skip
EXISTENCE: Phrases = {
    "train": ("did a {thing} ever {come}?", "has a {thing} {come} by?", "was there a {thing}?",
              "did you see a {thing}?", "has a {thing} been here?", "did any {thing} {come}?"),
    "eval": ("did you ever see a {thing}?", "was a {thing} here?", "has any {thing} been here?"),
}  # fmt: skip
DOOR_EXISTENCE: Phrases = {
    "train": (
        "did a {thing} ever open?",
        "was a {thing} open?",
        "did you see a {thing} open?",
        "did any {thing} open?",
    ),
    "eval": ("did you ever see a {thing} open?", "was any {thing} open?"),
}
COLOUR: Phrases = {
    "train": ("what colour was the {thing}?", "which colour did the {thing} have?", "the {thing} was of which colour?",
              "tell me the colour of the {thing}"),
    "eval": ("what was the colour of the {thing}?", "what colour did the {thing} have?"),
}  # fmt: skip
COUNT: Phrases = {
    "train": ("how many times did a {thing} {come}?", "how often did a {thing} {come}?",
              "count how many times a {thing} did {come}", "how many times did you see a {thing} {come}?"),
    "eval": ("how often did you see a {thing} {come}?", "tell me how many times a {thing} did {come}"),
}  # fmt: skip
WHERE: Phrases = {
    "train": ("where was the {thing}?", "on which side was the {thing}?", "where in the picture was the {thing}?",
              "where did you see the {thing}?"),
    "eval": ("on which side did you see the {thing}?", "where in the picture did you see the {thing}?"),
}  # fmt: skip
WHEN: Phrases = {
    "train": ("when did the {thing} {come}?", "at what time did the {thing} {come}?",
              "what time did the {thing} {come}?", "tell me when the {thing} did {come}"),
    "eval": ("tell me at what time the {thing} did {come}", "at which time did the {thing} {come}?"),
}  # fmt: skip
LAST_SEEN: Phrases = {
    "train": ("when was a {thing} last seen?", "when did you last see a {thing}?",
              "at what time was a {thing} last seen?", "when was the last time a {thing} was here?"),
    "eval": ("at what time did you last see a {thing}?", "what was the last time a {thing} was seen?"),
}  # fmt: skip
ORDER: Phrases = {
    "train": ("did the {a} come before or after the {b}?", "was the {a} here before or after the {b}?",
              "before or after the {b}, when did the {a} come?"),
    "eval": ("was the {a} seen before or after the {b}?", "did you see the {a} before or after the {b}?"),
}  # fmt: skip
LEFT_BEHIND: Phrases = {
    "train": ("what was left behind?", "was something left behind?", "did somebody leave something behind?",
              "has anything been left behind?"),
    "eval": ("was anything left behind?", "did somebody leave anything behind?"),
}  # fmt: skip
ROOM: Phrases = {
    "train": (
        "in which room was the {thing}?",
        "which room was the {thing} in?",
        "in what room did you see the {thing}?",
    ),
    "eval": ("in which room did you see the {thing}?", "what room was the {thing} in?"),
}
ONE_THING: tuple[Phrases, ...] = (EXISTENCE, COUNT, WHERE, WHEN, LAST_SEEN, ROOM)

CAPTIONS = (
    "a {thing}",
    "the {thing}",
    "there is a {thing}",
    "a {thing} can be seen",
    "a picture of a {thing}",
    "{thing}",
)
DOOR_CAPTIONS = ("a {thing} open", "an open {thing}", "the {thing} is open")
NUMBERS = ("zero", "one", "two", "three", "four")
