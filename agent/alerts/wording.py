"""A condition as a plain question, for models that were taught questions about what was seen, and nothing else.

A small grammar turns the condition round. It knows English verbs, not rules: "a red truck comes" -> "did a red truck
come?", "a bag is left behind" -> "was a bag left behind?", "a dog" -> "was there a dog?". Such a model may answer with
what it saw instead of yes or no; `read_answer` makes a verdict of that. Which manner a checkpoint wants stands in its
config.json (`judge` in the section `vilamp_live`); models that follow instructions get the condition verbatim
(`agent/alerts/judge.py`).
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
_ANYTHING = frozenset({"something", "anything", "thing", "things", "object", "objects"})
_LITTLE = frozenset({"a", "an", "the", "any", "some", "of", "and"})
_NOTHING = (["nothing"], ["none"], ["nobody"])


def as_question(condition: str) -> str:
    """ "a red truck comes to the gate" -> "did a red truck come to the gate?"; what is a question already stays one."""
    condition = " ".join(condition.split())
    if condition.endswith("?"):
        return condition
    subject, rest = _split(_plain(condition))
    if not rest:
        return f"was there {' '.join(subject)}?"
    verb, *after = rest
    if verb in _BE:
        return f"{' '.join([_BE[verb], *subject, *after])}?"
    if verb in _HAVE:
        return f"{' '.join([verb, *subject, *after])}?"
    return f"{' '.join(['did', *subject, _base(verb), *after])}?"


def read_answer(answer: str, condition: str) -> Verdict:
    """The verdict in a short answer. Where it names what was seen, it is yes if that is what the condition speaks of.

    "yes" -> yes; "nothing" -> no; "a red bag" -> yes for "a bag is left behind", no for "a box is left behind";
    everything else is unclear.
    """
    words = re.findall(r"[a-z]+", answer.lower())
    if words == ["yes"]:
        return "yes"
    if words == ["no"] or words[:1] in _NOTHING:
        return "no"
    if words[:1] not in (["a"], ["an"]):
        return "unclear"
    subject, _ = _split(_plain(condition))
    spoken_of = set(subject) - _LITTLE
    return "yes" if spoken_of <= set(words) or spoken_of <= _ANYTHING else "no"


def _plain(condition: str) -> str:
    return _PREAMBLE.sub("", " ".join(condition.split()).rstrip(" .!?").lower())


def _split(condition: str) -> tuple[list[str], list[str]]:
    """(subject, verb and what follows): "a red truck comes in" -> (a red truck, comes in); no verb: all is subject."""
    words = condition.split()
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
