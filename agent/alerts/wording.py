"""A condition as a plain question, for models that were taught questions about what was seen, and nothing else.

A small grammar turns the condition round; it knows English verbs, not rules. What comes or happens is counted, because a
count of none is as natural an answer as any other, where a bare yes or no can be a habit of the model's:

    "any red truck comes"       -> "how many times did a red truck come?"      zero: no; one, two: yes
    "a dog", "a dog walks by"   -> "how many times did a dog come?"            such models know one word for it
    "a bag is left behind"      -> "was a bag left behind?"                    no, nothing: no; yes, "a red bag": yes

Which manner a checkpoint wants stands in its config.json (`judge` in the section `vilamp_live`); models that follow
instructions get the condition verbatim (`agent/alerts/judge.py`).
"""

import re

from agent.alerts.machine import Verdict

_PREAMBLE = re.compile(r"^(please )?((tell|alert|notify|warn) me )?(when|whenever|if|that|as soon as) ")
_HAVE = ("has", "have")
_BE = {"is": "was", "are": "were", "was": "was", "were": "were"}
_BASES = frozenset(
    re.findall(
        r"[a-z]+",
        """
        appear approach arrive bark begin block break bring burn carry catch climb close come crash cross cry dance
        drive drop eat enter exit fall fetch fight follow get go grow happen hide hit hold jump knock lead lean leave
        lie lift lose meet move open park pass pick play pull push put reach ride ring roll run show sit sleep smoke
        spill stand start stay steal stop swim take throw touch turn visit wait walk wave wear work
        """,
    )
)
_COMING = frozenset({"appear", "approach", "arrive", "come", "drive", "pass", "ride", "roll", "run", "show", "walk"})
_WAYS = (["along"], ["by"], ["in"], ["past"], ["through"], ["up"])
_ANYTHING = frozenset({"something", "anything", "thing", "things", "object", "objects"})
_LITTLE = frozenset({"a", "an", "the", "of", "and"})
_NO = "no zero 0 none nothing nobody never"
_YES = "yes one two three four five six seven eight nine ten once twice 1 2 3 4 5 6 7 8 9 10"
_VERDICTS: dict[str, Verdict] = {**dict.fromkeys(_NO.split(), "no"), **dict.fromkeys(_YES.split(), "yes")}


def as_question(condition: str) -> str:
    """ "a red truck comes in" -> "how many times did a red truck come in?"; what is a question already stays one."""
    condition = " ".join(condition.split())
    if condition.endswith("?"):
        return condition
    words = _plain(condition).split()
    if words[:1] == ["there"] and words[1:2] and words[1] in _BE:
        words = [*words[2:], "come"]
    subject, rest = _split(words)
    verb, *after = rest or ["come"]
    if verb in _BE and after[:1] not in ([], ["here"], ["there"]):
        return " ".join([_BE[verb], *subject, *after]) + "?"
    if verb in _HAVE:
        return " ".join([verb, *subject, *after]) + "?"
    if verb in _BE:
        verb, after = "come", after[1:]
    elif _base(verb) in _COMING and (not after or after in _WAYS):
        verb, after = "come", []
    return " ".join(["how many times did", *subject, _base(verb), *after]) + "?"


def read_answer(answer: str, condition: str) -> Verdict:
    """The verdict in a short answer: yes or no, a number, or what was seen.

    "yes", "two" -> yes; "no", "zero", "nothing" -> no; "a red bag" -> yes for "a bag is left behind", no for "a box is
    left behind"; everything else is unclear.
    """
    words = re.findall(r"[a-z]+|\d+", answer.lower())
    if len(words) == 1 and words[0] in _VERDICTS:
        return _VERDICTS[words[0]]
    if words[:1] not in (["a"], ["an"]):
        return "unclear"
    subject, _ = _split(_plain(condition).split())
    spoken_of = set(subject) - _LITTLE
    return "yes" if spoken_of <= set(words) or spoken_of <= _ANYTHING else "no"


def _plain(condition: str) -> str:
    """In lower case, without "tell me when", without "any": "Any dog comes." -> "a dog comes"."""
    plain = _PREAMBLE.sub("", " ".join(condition.split()).rstrip(" .!?").lower())
    return re.sub(r"^(any|some) ", lambda _: "an " if re.match(r"\w+ [aeio]", plain) else "a ", plain)


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """(subject, verb and what follows): "a red truck comes in" -> (a red truck, comes in); no verb: all is subject."""
    for known in (_is_known_verb, _is_third_person):
        for place in range(1, len(words)):
            if known(words[place]):
                return words[:place], words[place:]
    return words, []


def _is_known_verb(word: str) -> bool:
    return word in _BE or word in _HAVE or word in _FORMS


def _is_third_person(word: str) -> bool:
    """May be a verb that the list does not know: "somebody juggles"."""
    return len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))


def _third(base: str) -> str:
    if base.endswith(("s", "x", "z", "ch", "sh", "o")):
        return f"{base}es"
    return f"{base[:-1]}ies" if base.endswith("y") and base[-2] not in "aeiou" else f"{base}s"


_FORMS = {_third(base): base for base in _BASES} | {base: base for base in ("come", "arrive", "appear", "enter")}


def _base(verb: str) -> str:
    """ "comes" -> "come"; of a verb that the list does not know the s is taken away."""
    return _FORMS.get(verb) or (f"{verb[:-3]}y" if verb.endswith("ies") else verb.removesuffix("s"))
