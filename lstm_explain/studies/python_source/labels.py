"""What is true of Python source after each of its characters, according to `tokenize`.

Each label is the state *after reading* its character: a reader who has come to ``(`` is one bracket deep, one who has come to a
closing quote is outside the string again.

An f-string (from Python 3.14 on, a t-string too) is one string from its first quote to its closing quote, replacement fields
included, and nothing inside it counts as a bracket, a name or a comment. Python 3.11 can't see inside and later versions can;
so all of them give the same labels.
"""

import io
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from keyword import iskeyword
from token import EXACT_TOKEN_TYPES
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lstm_explain.errors import InputError

# Looked up by name, since Python 3.11 has none of them.
_NESTED_START = {kind for kind, name in tokenize.tok_name.items() if name in ("FSTRING_START", "TSTRING_START")}
_NESTED_END = {kind for kind, name in tokenize.tok_name.items() if name in ("FSTRING_END", "TSTRING_END")}
_BLANK = {tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER}
_OPERATORS = EXACT_TOKEN_TYPES.keys() - {"!"}


class Labels(NamedTuple):
    """The labels of one text, each ``(character,)``.

    Attributes
    ----------
    in_string
        True from a string's first quote on, false from its last character on. The letters of a prefix aren't inside.
    in_comment
        True from ``#`` to the comment's last character.
    bracket_depth
        How many of ``( [ {`` are open.
    indentation_depth
        How many indented blocks the statement is in. It changes with a statement's first character, never in a comment or a
        blank line.
    column
        How many characters were read since the line began; 0 after a newline.
    keyword
        At the first character after a name, which is where a reader knows that it has ended: 1 if it is a keyword, 0 if it is
        an identifier or a soft keyword. -1 everywhere else.
    """

    in_string: NDArray[np.bool_]
    in_comment: NDArray[np.bool_]
    bracket_depth: NDArray[np.int16]
    indentation_depth: NDArray[np.int16]
    column: NDArray[np.int32]
    keyword: NDArray[np.int8]


@dataclass(slots=True)
class _Steps:
    """The characters at which a count goes up, and at which it goes down."""

    up: list[int] = field(default_factory=list)
    down: list[int] = field(default_factory=list)

    def count(self, length: int) -> NDArray[np.int16]:
        up, down = (np.bincount(np.array(at, dtype=np.intp), minlength=length + 1) for at in (self.up, self.down))
        return np.cumsum(up - down)[:length].astype(np.int16)


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _cannot_read(line: int, reason: str) -> InputError:
    return InputError(f"needed Python source, got a text that can't be tokenized at line {line}: {reason}")


class _Token(NamedTuple):
    kind: int
    string: str
    begin: int
    end: int


def _tokens(text: str, line_starts: list[int]) -> list[_Token]:
    try:
        with warnings.catch_warnings():
            # From Python 3.12 on the tokenizer warns of odd escapes and numbers in what it reads: the text's affair, not ours.
            warnings.simplefilter("ignore")
            tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except tokenize.TokenError as error:
        reason, (line, _) = error.args
        raise _cannot_read(line, reason) from error
    except SyntaxError as error:
        raise _cannot_read(error.lineno or 1, error.msg) from error
    code = []
    for kind, string, (row, column), _, _ in tokens:
        if kind not in _BLANK:
            begin = line_starts[row - 1] + column
            # Not from the token's own end: Python 3.12.0 and 3.12.1 count that of a string over several lines in bytes.
            code.append(_Token(kind, string, begin, begin + len(string)))
    return code


def _whole_strings(tokens: Iterable[_Token]) -> Iterator[_Token]:
    """Give the same tokens with each f-string as one `STRING`, as Python 3.11 does; its `string` is how it begins."""
    opened: list[_Token] = []
    for token in tokens:
        if token.kind in _NESTED_START:
            opened.append(token)
        elif token.kind in _NESTED_END:
            start = opened.pop()
            if not opened:
                yield _Token(tokenize.STRING, start.string, start.begin, token.end)
        elif not opened:
            yield token


def _is_foreign(kind: int, string: str) -> bool:
    # Where 3.11 gives an ERRORTOKEN, later versions give an operator or a name that isn't one.
    if kind == tokenize.OP:
        return string not in _OPERATORS
    return kind == tokenize.ERRORTOKEN or (kind == tokenize.NAME and not string.isidentifier())


def label(text: str) -> Labels:
    r"""Label each character of a Python source text with the state after reading it.

    Parameters
    ----------
    text
        A whole file, with ``\n`` line ends.

    Returns
    -------
    Labels
        Six arrays ``(len(text),)``.

    Raises
    ------
    InputError
        If the text can't be tokenized, or closes a bracket that isn't open.
    """
    try:
        is_newline = np.frombuffer(text.encode("utf-32-le"), dtype="<u4") == ord("\n")
    except UnicodeEncodeError as error:
        raise _cannot_read(_line(text, error.start), "a lone surrogate") from error
    read = np.arange(1, len(text) + 1, dtype=np.int32)
    line_starts = [0, *read[is_newline].tolist(), len(text)]

    strings, comments, brackets, blocks = _Steps(), _Steps(), _Steps(), _Steps()
    keyword = np.full(len(text) + 1, -1, dtype=np.int8)
    indents = dedents = 0
    for kind, string, begin, end in _whole_strings(_tokens(text, line_starts)):
        if _is_foreign(kind, string):
            raise _cannot_read(_line(text, begin), "a character that can't stand there")
        if kind == tokenize.INDENT:
            indents += 1
        elif kind == tokenize.DEDENT:
            dedents += 1
        elif kind == tokenize.COMMENT:
            comments.up.append(begin)
            comments.down.append(end)
        else:
            # Only here: after a backslash, versions differ in where they put INDENT and DEDENT, but not in which token follows.
            blocks.up += [begin] * indents
            blocks.down += [begin] * dedents
            indents = dedents = 0
        if kind == tokenize.NAME:
            keyword[end] = iskeyword(string)
        elif kind == tokenize.STRING:
            prefix = len(string) - len(string.lstrip("bBfFrRtTuU"))
            strings.up.append(begin + prefix)
            strings.down.append(end - 1)
        elif kind == tokenize.OP and string in "([{":
            brackets.up.append(begin)
        elif kind == tokenize.OP and string in ")]}":
            brackets.down.append(begin)

    bracket_depth = brackets.count(len(text))
    if (bracket_depth < 0).any():
        raise _cannot_read(_line(text, int(np.argmax(bracket_depth < 0))), "a bracket is closed that isn't open")
    return Labels(
        in_string=strings.count(len(text)) > 0,
        in_comment=comments.count(len(text)) > 0,
        bracket_depth=bracket_depth,
        indentation_depth=blocks.count(len(text)),
        column=read - np.maximum.accumulate(np.where(is_newline, read, 0)),
        keyword=keyword[:-1],
    )
