"""Thoughts and control marks are removed from a server's text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ask.remote_text import Speech, ThoughtsShown, is_visible


def said(*pieces: str, was_cut: bool = False, **manner: float | bool) -> str:
    speech = Speech(**manner)  # type: ignore[arg-type]
    return "".join([speech.hear(piece) for piece in pieces]) + speech.end(was_cut=was_cut)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("A red car.", "A red car."),
        ("  \n\u200bA red car.", "A red car."),
        ("<think>no</think>\n\nA car.", "A car."),
        ("<THINK>no <b></Think>A car.", "A car."),
        ("<thinking>a</thinking>A <reasoning>b</reasoning>car.", "A car."),
        ("[THINK]a[/THINK]A car.", "A car."),
        ("<think>never ends", ""),
        ("A car.<think>never ends", "A car."),
        ("A car.<|im_end|>\n<|im_start|>user", "A car."),
        ("<s>A car.</s>more", "A car."),
        ("<|begin_of_box|>A car.<|end_of_box|>", "A car."),
        ("<|im_end|>", ""),
        (" \u200b\n ", ""),
        ("a < b, [c] <d> <|", "a < b, [c] <d> <|"),
        ("the sign says <think", "the sign says <think"),
        ("\ud83d\ude00 \ud800.", "\N{GRINNING FACE} \ufffd."),
        ("half \ud83d", "half \ufffd"),
    ],
)
def test_answer_does_not_depend_on_its_pieces(text: str, answer: str) -> None:
    assert said(text) == answer
    assert said(*text) == answer
    assert said(*(text[place : place + 3] for place in range(0, len(text), 3))) == answer


def test_thoughts_of_which_only_the_end_is_marked() -> None:
    pieces = ("Let me see. No dog.", "</th", "ink> Yes", ".")
    assert said(*pieces, held_chars=1000) == "Yes."
    assert said(*pieces, aloud=True) == "Yes."
    with pytest.raises(ThoughtsShown):
        said(*pieces)
    assert said("Let me see", aloud=True, was_cut=True) == ""
    assert said("A car.", aloud=True) == "A car."


def test_text_held_back_is_released_when_long_enough() -> None:
    speech = Speech(held_chars=10)
    assert [speech.hear("four"), speech.hear("four"), speech.hear("four"), speech.hear("!")] == [
        "",
        "",
        "fourfourfour",
        "!",
    ]


@given(st.lists(st.text(st.sampled_from("<>/|[]think_end \ud83d\ude00s"))))
def test_pieces_do_not_matter(pieces: list[str]) -> None:
    assert said(*pieces) == said("".join(pieces))
    said(*pieces).encode()  # no half characters


def test_visible_text() -> None:
    assert all(map(is_visible, ("a", " .", "はい", "\N{GRINNING FACE}")))
    assert not any(map(is_visible, ("", " \n\t", "\u200b\ufeff", "\x00\x1b", "\u00a0\u2028")))
