"""Texts that others wrote, as a page can show them: what can't be seen or encoded as its escape, what runs right to left kept to itself."""

import re

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff\ufffe\uffff]"
)
"""Control characters, those that turn the order of a line, separators that break one, and halves of surrogate pairs."""
_LEFTWARD = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff"
"""Where letters that run right to left are."""
_RUN = re.compile(f"[{_LEFTWARD}](?:[^A-Za-z<>&]*[{_LEFTWARD}])?")
_FIRST_STRONG_ISOLATE, _POP_ISOLATE = "\u2068", "\u2069"


def shown(text: str) -> str:
    """A text for a page: nothing in it can hide, or change the order of what stands around it (Unicode Annex 9)."""
    return _RUN.sub(f"{_FIRST_STRONG_ISOLATE}\\g<0>{_POP_ISOLATE}", escaped(text))


def escaped(text: str) -> str:
    r"""A text with what can't be seen as ``\u202e``."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def encodable(text: str) -> str:
    r"""JSON that UTF-8 can hold: a lone surrogate as ``\ud800``, which JSON reads as what it was."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def token(text: str) -> str:
    """A token by itself, so that a space and an end of a line can be seen."""
    return {"\n": "↵", "\t": "→", " ": "␣"}.get(text, text if text.strip() else repr(text)[1:-1])


def counted(count: int, one: str, several: str = "") -> str:
    """A number and its noun: "1 unit", "2 units"."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def called(group: object) -> str:
    """A group by its name; one that has a number only is said to be a group."""
    return f"group {group}" if str(group).isdecimal() else str(group)


def sentence(text: str) -> str:
    """A text as a sentence: it begins large and ends with a full stop."""
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."
