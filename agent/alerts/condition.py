"""Turn a rule's condition into a plain question, for models that were trained only on questions about what was seen.

A small English grammar finds the subject and the verb of the condition. The question about something that comes or
happens asks for its number, because "none" is as natural an answer as any other number, while a model may answer "yes"
out of habit. Examples, with how an answer is read:

    "any red truck comes"       -> "how many times did a red truck come?"      "zero": no; "one", "two": yes
    "a dog", "a dog walks by"   -> "how many times did a dog come?"            these models know only the verb "come"
    "a bag is left behind"      -> "was a bag left behind?"                    "no", "nothing": no; "a red bag": yes
    "two people fight"          -> "how many times did two people fight?"
    "the lights went out"       -> "the lights went out?"                      not covered by the grammar: kept

A checkpoint's config.json says which form of question its model needs (`judge` in the section `vilamp_live`). Models
that follow instructions get the condition verbatim (`agent/alerts/judge.py`).
"""

import itertools
import re
from dataclasses import dataclass, field

from agent.alerts.machine import Verdict


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


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
_NUMBERS = _words("two three four five six seven eight nine ten several many")
_SOMEBODY = _words("somebody someone something anybody anyone anything people children")
_DETERMINERS = _words("a an the one another this that each every")
_PLURALS = _words("people children men women mice geese police kids")
_BETWEEN = _words(
    """
    with in on at of by near from into over under behind inside outside through along past to towards across
    """
)
# Words that this grammar does not handle: a condition with one of them counts as not covered.
_STRANGE = _words(
    """
    not no nobody none nothing never without nor neither who whose whom which what when where why how while
    because but if unless until than then so as that's it's isn't aren't doesn't don't can could will would
    should may might must shall do does did done been being am he she it they them his her its their i me my you
    your we us our few lot lots pair couple dozen most more less any some all both either and or went gone came
    ate fell fallen broke broken left lost met ran rang sat shut slept stole stolen stood swam took taken threw
    thrown wore worn woke caught held hid hidden kept made said saw seen sent spoke spilt spilled told tore torn
    drove flew got grew hung knew lay led lit put rode rose sank shook shot sang spun spread struck swung won
    wrote asleep awake alone alive dead drunk naked sick hurt injured ajar open closed locked unlocked
    unattended missing absent present visible empty full dirty wet down up out off away here there ago again now
    already still too very only just late
    """
)
_ANYTHING = frozenset({"something", "anything", "thing", "things", "object", "objects"})
_LITTLE = frozenset({"a", "an", "the", "of", "and"})
_NO = "no zero 0 none nothing nobody never"
_YES = "yes one two three four five six seven eight nine ten once twice 1 2 3 4 5 6 7 8 9 10"
_VERDICTS: dict[str, Verdict] = {**dict.fromkeys(_NO.split(), "no"), **dict.fromkeys(_YES.split(), "yes")}


@dataclass(frozen=True, slots=True)
class _Clause:
    """The parts of a condition that the grammar covers: subject, verb as written ("" if there is none), words after it."""

    subject: list[str]
    verb: str = ""
    after: list[str] = field(default_factory=list)


def as_question(condition: str) -> str:
    """Return the condition as a question, for example "how many times did a red truck come?" for "a red truck comes".

    A condition that is already a question is returned unchanged; one that the grammar does not cover only gets a "?".
    """
    condition = " ".join(condition.split())
    if condition.endswith("?"):
        return condition
    clause = _understood(condition)
    if clause is None:
        return f"{condition.rstrip(' .!')}?"
    subject, verb, after = clause.subject, clause.verb or "come", clause.after
    if verb in _BE and after[:1] not in ([], ["here"], ["there"]):
        return " ".join([_BE[verb], *subject, *after]) + "?"
    if verb in _HAVE and after and after[0] not in _DETERMINERS | _NUMBERS:
        return " ".join([verb, *subject, *after]) + "?"
    if verb in _HAVE:
        verb = "have"
    elif verb in _BE:
        verb, after = "come", after[1:]
    elif _base(verb) in _COMING and (not after or after in _WAYS):
        verb, after = "come", []
    return " ".join(["how many times did", *subject, _base(verb), *after]) + "?"


def read_answer(answer: str, condition: str) -> Verdict:
    """Return the verdict that a short answer means. The answer may be yes or no, a number, or what was seen.

    "yes", "two" -> yes; "no", "zero", "nothing" -> no; "a red bag" -> yes for "a bag is left behind", no for "a box is
    left behind"; everything else is unclear.
    """
    words = re.findall(r"[a-z]+|\d+", answer.lower())
    if len(words) == 1 and words[0] in _VERDICTS:
        return _VERDICTS[words[0]]
    clause = _understood(condition)
    if words[:1] not in (["a"], ["an"]) or clause is None:
        return "unclear"
    spoken_of = set(clause.subject) - _LITTLE
    return "yes" if spoken_of <= set(words) or spoken_of <= _ANYTHING else "no"


def _plain(condition: str) -> str:
    """Return the condition in lower case, without "tell me when" and "any": "Any dog comes." -> "a dog comes"."""
    plain = _PREAMBLE.sub("", " ".join(condition.split()).rstrip(" .!?").lower())
    return re.sub(r"^(any|some) ", lambda _: "an " if re.match(r"\w+ [aeio]", plain) else "a ", plain)


def _understood(condition: str) -> _Clause | None:
    """Return the parts of the condition (subject, verb, rest) if the grammar covers every word of it, else None."""
    words = _plain(condition).split()
    if not words or not all(re.fullmatch(r"[a-z]+(?:[-'][a-z]+)*", word) for word in words):
        return None
    if words[0] == "there" and len(words) > 1 and words[1] in _BE:
        return _Clause(words[2:]) if _is_thing(words[2:]) else _doing(words[2:], _BE[words[1]])
    for place in range(1, len(words)):
        subject, verb, after = words[:place], words[place], words[place + 1 :]
        if _is_verb(verb, subject):
            is_plain = verb in _BE or (verb in _HAVE and after[:1] != ["no"]) or _is_plain_rest(after)
            sure = _is_thing(subject) and is_plain
            return _Clause(subject, verb, after) if sure and not _has_clause(after) else None
    return _Clause(words) if _is_thing(words) else _doing(words, "are" if _is_plural(words[0], words) else "is")


def _doing(words: list[str], be: str) -> _Clause | None:
    """Return the parts of a condition such as "a man running", read as "a man is running".

    words: those of the condition. be: the form of "to be" that is added. None: the words have another form.
    """
    for place in range(1, len(words)):
        verb, after = words[place], words[place + 1 :]
        if verb in _DOING and _is_thing(words[:place]) and (not after or after[0] in _BETWEEN | _DETERMINERS):
            return None if _has_clause(after) else _Clause(words[:place], be, words[place:])
    return None


def _is_verb(word: str, subject: list[str]) -> bool:
    """Return True when `word`, after the words of `subject`, is certainly a verb."""
    if word in _BE or word in _HAVE or word in _COMMON:
        return True
    if subject[-1] in _DETERMINERS | _NUMBERS | _BETWEEN:
        return False  # "two blocks", "a stop"
    if word in _FORMS:
        return True
    if word in _BASES:  # "two people fight"; but "a dog show"
        return _is_plural(subject[-1], subject)
    one = subject[0] in ("a", "an", "one") and not set(subject) & _BETWEEN and not _is_plural(subject[-1], subject)
    return (one or subject[0] in _SOMEBODY - _PLURALS) and _is_third_person(word)


def _is_plural(word: str, words: list[str]) -> bool:
    """Return True for a plural such as "people" or "dogs"; False for "bus", and when `words` begin with "a" or "one"."""
    plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word in _PLURALS or (plural and words[0] not in ("a", "an", "one", "another"))


def _is_thing(words: list[str]) -> bool:
    """Return True when the words only name something: "a red truck", "two people", "somebody with a dog", "smoke"."""
    if not words or len(words) > 8 or words[0] in _BETWEEN or words[-1] in _BETWEEN | _DETERMINERS | _NUMBERS:
        return False
    if len(words) == 1:
        return words[0] not in _STRANGE
    known = not set(words[1:]) & _SOMEBODY - _PLURALS and not set(words) & _STRANGE
    is_verb = any(word in _DOING or word in _FORMS or word in _BASES for word in words[-1:])
    # "a parked car", but not "a car parked": that may be the sentence's verb
    return known and not is_verb and not _is_done(words[-1]) and not _has_inner_verb(words)


def _has_inner_verb(words: list[str]) -> bool:
    """Return True when one of the words may be a verb: "two cars collide", "a car parked by the gate", "water leaks"."""
    for word, following in itertools.pairwise(words):
        if (word in _DOING or _is_done(word)) and following in _BETWEEN | _DETERMINERS:
            return True
        if _is_plural(word, words) and following not in _BETWEEN:
            return True
    if words[0] in _DETERMINERS | _NUMBERS | _SOMEBODY:
        return False
    bare = next((place for place, word in enumerate(words) if word in _BETWEEN), len(words))
    return bare > 2 or (bare == 2 and _is_third_person(words[1]))


def _is_done(word: str) -> bool:
    return len(word) > 4 and word.endswith("ed") and word not in ("shed", "sled", "moped")


def _is_plain_rest(after: list[str]) -> bool:
    """Return True when the grammar covers `after`, the words behind a verb: "in", "to the gate", "a box and a bag"."""
    return not set(after) & (_STRANGE - {"and", "or", "here", "there", "up", "down", "out", "off", "away", "open"})


def _has_clause(after: list[str]) -> bool:
    """Return True when another clause begins in the words after the verb: "and sits down", "who wears a hat"."""
    for place, word in enumerate(after):
        following = after[place + 1 : place + 2]
        if word in ("and", "or") and following and following[0] not in _DETERMINERS | _NUMBERS:
            return True
        inner = place > 0 and (
            word in _BE or word in _HAVE or word in _COMMON or (word in _FORMS and word not in _THIRD_NOUNS)
        )
        if inner or word in ("who", "which", "that", "while", "but", "when", "then", "because", "nobody", "until"):
            return True
    return False


def _is_third_person(word: str) -> bool:
    """Return True when a word that is in no list may be a verb by its ending: "juggles" in "somebody juggles"."""
    return len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))


def _third(base: str) -> str:
    if base.endswith(("s", "x", "z", "ch", "sh", "o")):
        return f"{base}es"
    return f"{base[:-1]}ies" if base.endswith("y") and base[-2] not in "aeiou" else f"{base}s"


def _doing_form(base: str) -> str:
    """Return the -ing form: "run" -> "running", "come" -> "coming", "fight" -> "fighting"."""
    if base.endswith("ie"):
        return f"{base[:-2]}ying"
    if base.endswith("e") and not base.endswith("ee"):
        return f"{base[:-1]}ing"
    doubled = re.fullmatch(r"[^aeiou]*[aeiou][^aeiouwxy]|begin", base)
    return f"{base}{base[-1]}ing" if doubled else f"{base}ing"


_COMMON = frozenset(("come", "arrive", "appear", "enter"))  # also after a singular, as many people write
_FORMS = {_third(base): base for base in _BASES} | {base: base for base in _COMMON}
_DOING = frozenset(map(_doing_form, _BASES))
_THIRD_NOUNS = _words("blocks rings waves works drops plays shows stops turns covers")  # often nouns


def _base(verb: str) -> str:
    """Return the base form of a verb: "comes" -> "come". An unlisted verb only loses its final s."""
    if verb in _BASES or verb in _COMMON or verb == "have":
        return verb
    return _FORMS.get(verb) or (f"{verb[:-3]}y" if verb.endswith("ies") else verb.removesuffix("s"))
