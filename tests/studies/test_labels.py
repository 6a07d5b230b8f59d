"""`label`: the state after each character, by hand, by a reader that knows nothing of `tokenize`, and however the tokens come."""

import sysconfig
import tokenize
from keyword import iskeyword
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lstm_explain.errors import InputError
from lstm_explain.studies.python_source import labels as module
from lstm_explain.studies.python_source.labels import Labels, label

DTYPES = Labels(np.bool_, np.bool_, np.int16, np.int16, np.int32, np.int8)
LIBRARY = Path(sysconfig.get_path("stdlib"))
FILES = [
    "argparse.py",
    "ast.py",
    "asyncio/base_events.py",
    "collections/__init__.py",
    "csv.py",
    "difflib.py",
    "email/_header_value_parser.py",
    "enum.py",
    "inspect.py",
    "json/decoder.py",
    "optparse.py",
    "re/_parser.py",
    "shlex.py",
    "textwrap.py",
    "tokenize.py",
]
PREFIXES = {"", *"rbuf", "rb", "br", "rf", "fr"}


def slowly(text):
    """Read a text as a person would: one character at a time, in a string, in a comment, or in code."""
    rows = []
    quote, skip, closing, comment = "", 0, False, False
    depth = column = 0
    blocks, width, fresh = [0], 0, True
    word, after_point = "", False
    for at, c in enumerate(text):
        keyword = -1
        continued = not comment and text[at - 1 : at] == "\\"
        if quote:
            if skip:
                skip -= 1
            elif c == "\\":
                skip = 1
            elif text.startswith(quote, at):
                skip, closing = len(quote) - 1, True
            if closing and not skip:
                quote, closing = "", False
        elif comment:
            comment = c != "\n"
        else:
            in_word = c.isalnum() or c == "_"
            is_prefix = c in "'\"" and word.lower() in PREFIXES
            if word and not in_word and not word[0].isdigit() and not after_point and not is_prefix:
                keyword = int(iskeyword(word))
            if not in_word:
                after_point = c == "." and word[:1].isdigit() and not after_point
            word = word + c if in_word else ""
            if fresh and c in " \t\f":
                width = {" ": width + 1, "\t": (width // 8 + 1) * 8, "\f": 0}[c]
            elif fresh and c not in "#\n":
                while width < blocks[-1]:
                    blocks.pop()
                if width > blocks[-1]:
                    blocks.append(width)
                fresh = False
            if c in "'\"":
                quote = c * 3 if text.startswith(c * 3, at) else c
                skip = len(quote) - 1
            comment = c == "#"
            depth += (c in "([{") - (c in ")]}")
        if c == "\n" and not quote and not depth and not continued:
            fresh, width = True, 0
        column = 0 if c == "\n" else column + 1
        rows.append((bool(quote), comment, depth, len(blocks) - 1, column, keyword))
    columns = list(zip(*rows, strict=True)) or [()] * 6
    return Labels(*(np.array(values, dtype=dtype) for values, dtype in zip(columns, DTYPES, strict=True)))


def assert_same(text, got, expected):
    for name, values, wanted in zip(Labels._fields, got, expected, strict=True):
        assert values.shape == (len(text),)
        assert values.dtype == wanted.dtype
        if not np.array_equal(values, wanted):
            at = int(np.argmax(values != wanted))
            pytest.fail(f"{name} at {at}: {values[at]}, not {wanted[at]}, after {text[max(0, at - 60) : at + 1]!r}")


def drawn_as(values, marks):
    return "".join(marks[int(value)] for value in values)


@pytest.mark.parametrize("name", FILES)
def test_library_files_are_labelled_as_a_reader_without_tokenize_labels_them(name):
    with tokenize.open(LIBRARY / name) as file:
        text = file.read()
    assert_same(text, label(text), slowly(text))


FRAGMENTS = [
    *("x ", "if ", "match ", "None ", "rb ", "é𝒳 ", "0x1f ", "1.5e3 ", "1_0j ", "a.b ", "= ", "!= ", "\t", "x \\\n", "\n", "\n\n"),
    *("()", "[a, b]", "{\n1: (2,\n [3])}", "f(\nx)", "(# )\n)", "# c", "# é'(\"\n", "#\n"),
    *("''", '""', "'a'", '"#"', "'('", "'\\''", "rb'\\''", 'Rb"\\""', "u'é'", "'a\\\nb'", "b''\"\"", "if'a'", "x''"),
    *("''''''", "'''a'b''c\n#'''", 'R"""\\"""\n"""', '"""\n  """', "'\t\f'"),
    *("f'{x}'", "f'{{}}'", "f\"{d['k']}\"", "f'{x!r:>{w}}'", "f'''\n{(x)} # {[y]}\n'''", "fR'{x}'"),
    *("\nif x:\n    y\nz ", "\nif x:\n  if y:\n\tz\n\n# c\n  # c\n  a\nb ", "\nif x:\n  (\ny)\n    # c\n", "\n\fx "),
]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join))
def test_made_up_texts_are_labelled_as_a_reader_without_tokenize_labels_them(text):
    try:
        labels = label(text)
    except InputError:
        return
    assert_same(text, labels, slowly(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 'a'", "....##."),
        ('x = "a" + y', "....##....."),
        ("''", "#."),
        ("'' ''", "#..#."),
        ("''''''", "#####."),
        ("'''a'''\n", "######.."),
        ("'''\n'\n'''", "########."),
        ("rb'\\''", "..###."),
        ("u'' + Br''", ".#......#."),
        ('"\\""', "###."),
        ("'a\\\nb'", "#####."),
        ("'a' \"b\"", "##..##."),
        ("'a''b'", "##.##."),
        ("'a\rb'", "####."),
        ("'é𝒳' ", "###.."),
        ("'''\né𝒳''' #", "########..."),
        ("'#'", "##."),
        ("# '\n''", "....#."),
        ("f'{x}'", ".####."),
        ("f\"{x!r:>{w}} {d['k']}\" ", "." + "#" * 20 + ".."),
        ("f'{{}}' 'a'", ".#####..##."),
        ("f'\\{x}'", ".#####."),
        ("f'a' f'b'", ".##...##."),
        ("rf'''{\nx}'''y", "..#########.."),
    ],
)
def test_a_string_begins_after_its_first_quote_and_ends_after_its_last(text, expected):
    assert drawn_as(label(text).in_string, ".#") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x # c\ny", "..###.."),
        ("#", "#"),
        ("#\n#\n", "#.#."),
        ("# '\nx", "###.."),
        ("'#'", "..."),
        ("f'{x}#'", "......."),
        ("(#)\n)", ".##.."),
        ("# c # d", "#######"),
        ("x # é𝒳 \ny", "..#####.."),
    ],
)
def test_a_comment_lasts_to_the_end_of_its_line(text, expected):
    assert drawn_as(label(text).in_comment, ".#") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f(a)[0]", "0110110"),
        ("({[]})", "123210"),
        ("f(\n a,\n)", "011 1111 0"),
        ("('(', # )\n)", "1111111111 0"),
        ("f'{(x)}'", "00000000"),
        ("@d(1)\ndef f(): pass", "001100 0000010000000"),
        ("x = [\n  {},\n]", "000011 112111 0"),
    ],
)
def test_a_bracket_counts_from_the_character_that_opens_it_and_not_after_the_one_that_closes_it(text, expected):
    assert drawn_as(label(text).bracket_depth, "0123") == expected.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("if x:\n  y\nz", "000000 0011 0"),
        ("if x: y\nz", "00000000 0"),
        ("if x:\n if y:\n  z\nw", "000000 0111111 1122 0"),
        ("if x:\n if y:\n  z\n w", "000000 0111111 1122 21"),
        ("if x:\n y\n# a\n # b\nz", "000000 011 1111 11111 0"),
        ("if x:\n # a\n y\n", "000000 00000 011"),
        ("if x:\n y\n\n  \n y", "000000 011 1 111 11"),
        ("if x:\n\ty\n\tz\nw", "000000 011 111 0"),
        ("if x:\n y\n\fz", "000000 011 10"),
        ("if x:\n (y)\n'z'", "000000 01111 000"),
        ("if x:\n y(\n1)\n z", "000000 0111 111 11"),
        ("if x:\n '''\na\n  '''\ny", "000000 01111 11 111111 0"),
        ("if x:\n  \\\n  y\nz", "000000 0000 0011 0"),
        ("if x:\n y\n\\\nz", "000000 011 11 0"),
        ("@d\ndef f(\n  a):\n return a", "000 0000000 000000 011111111"),
        ("if x:\n f'{y}'\nz", "000000 01111111 0"),
    ],
)
def test_indentation_changes_with_the_first_character_of_a_statement(text, expected):
    assert drawn_as(label(text).indentation_depth, "0123") == expected.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ab\n\nc", [1, 2, 0, 0, 1]),
        ("é + 𝒳\n\tx", [1, 2, 3, 4, 5, 0, 1, 2]),
        ("'''\na'''", [1, 2, 3, 0, 1, 2, 3, 4]),
        ("x\\\n+y", [1, 2, 0, 1, 2]),
        ("'\r'\n\fx", [1, 2, 3, 0, 1, 2]),
    ],
)
def test_the_column_counts_characters_since_the_line_began(text, expected):
    assert label(text).column.tolist() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("if x", "..k."),
        ("x=1\n", ".i.."),
        ("None\n", "....k"),
        ("if", ".."),
        ("a.b ", ".i.i"),
        ("print(x)", ".....i.i"),
        ("match x:", ".....i.i"),
        ("type type", "....i...."),
        ("async def f(): ", ".....k...k.i..."),
        ("x\\\n+y\n", ".i...i"),
        ("not(é𝒳)", "...k..i"),
        ("if'a'", "..k.."),
        ("u'a'", "...."),
        ("rb'if ' ", "........"),
        ("f'{if} '\n", "........."),
        ("0x1f 1e5 1j\n", "............"),
        ("1if x", "...k."),
        ("# if x\n", "......."),
    ],
)
def test_a_name_is_told_a_keyword_or_an_identifier_at_the_first_character_after_it(text, expected):
    assert drawn_as(label(text).keyword, {-1: ".", 0: "i", 1: "k"}) == expected


@pytest.mark.parametrize("text", ["", "\n", "x", "\n\n  ", "  # c", "if x:\n  y", "'a'", "(\n)"])
def test_every_character_has_six_labels_also_where_the_file_ends_without_a_newline(text):
    assert_same(text, label(text), slowly(text))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = 1\ny = 'abc\n", 2),
        ("x = 'abc", 1),
        ("x\n'''abc\n\n", 2),
        ("if x:\n    y\n  z\n", 3),
        ("x = 1\ny = $\n", 2),
        ("a\n!b\n", 2),
        ("a\n\nb ? c", 3),
        ("x\u00a0= 1\n", 1),
        ("\ufeffx\n", 1),
        ("x = 1 \\", 1),
        ("x\n\ny = '\ud800'\n", 3),
        ("x = ')'\n)(\n", 2),
        ("x\n)\n(\n", "[23]"),
        ("x\n(\n", "[123]"),
        ("(\n[\n", "[123]"),
    ],
)
def test_a_text_that_is_not_python_is_refused_in_one_line_that_names_the_line(text, line):
    with pytest.raises(InputError, match=rf"^needed Python source, got .*at line {line}: .+$") as caught:
        label(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("f'{x}' ", [("start", "f'"), (tokenize.OP, "{"), (tokenize.NAME, "x"), (tokenize.OP, "}"), ("end", "'")]),
        (
            "if f\"{x!r:>{w}} {f'{d}'}#\" in y: pass",
            [
                *((tokenize.NAME, "if"), ("start", 'f"'), (tokenize.OP, "{"), (tokenize.NAME, "x"), (tokenize.OP, "!")),
                *((tokenize.NAME, "r"), (tokenize.OP, ":"), ("middle", ">"), (tokenize.OP, "{"), (tokenize.NAME, "w")),
                *((tokenize.OP, "}"), (tokenize.OP, "}"), ("middle", " "), (tokenize.OP, "{"), ("start", "f'")),
                *((tokenize.OP, "{"), (tokenize.NAME, "d"), (tokenize.OP, "}"), ("end", "'"), (tokenize.OP, "}")),
                *(("middle", "#"), ("end", '"'), (tokenize.NAME, "in"), (tokenize.NAME, "y"), (tokenize.OP, ":")),
                (tokenize.NAME, "pass"),
            ],
        ),
    ],
)
def test_an_f_string_in_pieces_has_the_labels_of_one_in_one_piece(text, pieces, monkeypatch):
    kinds = {"start": 1001, "middle": 1002, "end": 1003}
    tokens, at = [], 0
    for kind, string in pieces:
        at = text.index(string, at)
        tokens.append(tokenize.TokenInfo(kinds.get(kind, kind), string, (1, at), (1, at + len(string)), text))
        at += len(string)
    expected = slowly(text)
    monkeypatch.setattr(module, "_NESTED_START", {1001})
    monkeypatch.setattr(module, "_NESTED_END", {1003})
    monkeypatch.setattr(tokenize, "generate_tokens", lambda readline: iter(tokens))
    assert_same(text, label(text), expected)
