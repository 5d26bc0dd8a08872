"""The words of time in English, German, Spanish and French, as the symbols of which the grammar of phrases is made.

One line of a table holds a symbol, a value, and the phrases that mean it, without accents. A phrase that begins with
"!" counts in its own language only, because it means something else in another one: "hier" is yesterday in French and
here in German.

symbol  meaning                         symbol  meaning
N       number                          L       last, as a calendar period: last week
1       article that may count: "an"    R       last, counted back from now: past week
U       unit of time                    X       next
P       part of the day                 T       this
p       part that needs no preposition  S B F   since, before, after
D       day, counted from today         t f     to or until, from
W       weekday, Monday is 0            K &     between, and
J       month                           a o     at, around
E       weekend                         i g     preposition of time; article
h q     half, quarter                   y e     early; late, earlier, whole
m       minus: "las tres menos cuarto"  A v     ago; German "vor": ago or before
k M     o'clock; 0: am, 12: pm          b c     "de": of or from; "a": at or to
Z n     just now; now                   Q       "mañana": morning or tomorrow
l w     midnight; "sun" and "sat"       j u     by; onwards
> <     more than; less than            x       any other word
I       tonight, overnight and others: a part of the day, and the day on which it begins
"""

from agent.reading.time_tables import DE, EN, ES, FR

_FUNCTION_WORDS = {
    "en": "a an the is was were did does do what who when how many at in on and any there have has had of it show me which "
    "with anyone anybody someone somebody been are came see seen happened but where why be could can between from to",
    "de": "der die das ist war waren was wer wann wie viele am im um und hat haben hatte ein eine einen den dem gab es "
    "jemand kam kamen hast du mir zeig wo welche mit von vor nach zwischen gestern heute ist auf bei ich man uhr seit",
    "es": "el la los las que quien cuando cuantos cuantas hay hubo en y del una un ha alguien por estuvo paso vino "
    "muestrame donde cual con de se ayer hoy entre llego algun alguna a las fue habia mostrar desde hace esta",
    "fr": "le la les est etait qui quand combien dans et du une un a quelqu y t il des pendant au que quoi passe venu "
    "montre moi ou avec de d l ce cette hier aujourd depuis entre est ont eu qu vu s quel quelle il elle",
}
LANGUAGES = ("en", "de", "es", "fr")

Meaning = tuple[str, str]  # symbol and value
Phrase = tuple[str, ...]


def _table(lines: str) -> tuple[dict[Phrase, list[Meaning]], set[Phrase]]:
    """Return the meanings of each phrase of a language, and the phrases that count in this language only."""
    meanings: dict[Phrase, list[Meaning]] = {}
    own: set[Phrase] = set()
    for line in lines.strip().splitlines():
        head, _, phrases = line.partition(" | ")
        symbol, _, value = head.partition(" ")
        for phrase in phrases.split(", "):
            words = tuple(phrase.removeprefix("!").split())
            meanings.setdefault(words, []).append((symbol, value))
            if phrase.startswith("!"):
                own.add(words)
    return meanings, own


TABLES = {name: _table(lines) for name, lines in zip(LANGUAGES, (EN, DE, ES, FR), strict=True)}
FUNCTION_WORDS = {name: frozenset(words.split()) for name, words in _FUNCTION_WORDS.items()}
