"""The corpus: symbols that come back as text, sides that no package crosses, and nothing on two of them."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lstm_explain.studies.python_source.corpus import (
    _GENERATED,
    CHARACTERS,
    OTHER,
    SHARED_AT_MOST,
    START_OF_FILE,
    VOCABULARY,
    WINDOW,
    Corpus,
    SourceFile,
    divide,
    encode,
    load,
    shared_with,
    split_of,
    stream,
    windows,
)

SIDES = ("train", "validation", "test")


def decode(symbols):
    return "".join("\ufffd" if symbol == OTHER else CHARACTERS[symbol - 2] for symbol in symbols)


def names_on(side, count):
    """File names that fall on one side."""
    names = (f"package{n}.py" for n in itertools.count())
    return list(itertools.islice((name for name in names if split_of(name) == side), count))


def made_up(seed, length):
    """A text that shares no window with another seed's."""
    return "".join(np.random.default_rng(seed).choice(list("abcdefgh (=)\n"), length))


def windows_of(text):
    symbols = encode(text).tobytes()
    return [symbols[at : at + WINDOW] for at in range(len(symbols) - WINDOW + 1)]


def share(text, *known):
    """The share of a text's windows that stand in other texts, by a plain set."""
    there = {window for other in known for window in windows_of(other)}
    found = [window in there for window in windows_of(text)]
    return sum(found) / len(found)


@pytest.fixture(scope="module")
def corpus():
    return load()


@given(st.text(st.one_of(st.sampled_from(CHARACTERS), st.characters()), max_size=200))
def test_symbols_come_back_as_the_text_with_one_mark_for_each_unknown_character(text):
    symbols = encode(text)
    assert symbols.dtype == np.uint8
    assert decode(symbols) == "".join(c if c in CHARACTERS else "\ufffd" for c in text)


@pytest.mark.parametrize("text", ["é", "𝒳", "\r", "\0", "\x7f", "\x1f", "\x80", "\ud800", "\ufffd"])
def test_a_character_outside_the_alphabet_is_one_other_symbol(text):
    assert encode(f"a{text}b").tolist() == [encode("a")[0], OTHER, encode("b")[0]]


def test_every_symbol_of_the_vocabulary_is_the_start_another_character_or_one_of_the_alphabet():
    assert VOCABULARY == 99
    assert encode(CHARACTERS).tolist() == list(range(2, VOCABULARY))
    assert {START_OF_FILE, OTHER} == {0, 1}
    assert encode("").tolist() == []


def test_a_stream_has_each_file_behind_a_start_symbol():
    files = [SourceFile("a.py", "x\n"), SourceFile("b.py", "é")]
    assert stream(files).tolist() == [START_OF_FILE, *encode("x\n"), START_OF_FILE, OTHER]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("asyncio/a.py", "asyncio/b.py"),
        ("asyncio/a.py", "asyncio/deep/down/b.py"),
        ("asyncio/__init__.py", "asyncio.py"),
        ("_pydecimal.py", "decimal.py"),
        ("_pyio.py", "io.py"),
        ("_strptime.py", "strptime.py"),
        *((f"_pypackage{n}.py", f"package{n}.py") for n in range(30)),
        *((f"_package{n}.py", f"package{n}/a.py") for n in range(30)),
        ("_pyrepl/reader.py", "repl.py"),
    ],
)
def test_a_package_its_modules_and_its_twins_in_python_are_on_one_side(one, other):
    assert split_of(one) == split_of(other)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("asyncio/events.py", "train"),
        ("decimal.py", "train"),
        ("zipfile.py", "validation"),
        ("hashlib.py", "validation"),
        ("importlib/util.py", "test"),
        ("re/_parser.py", "test"),
    ],
)
def test_a_side_is_the_same_on_every_machine(name, side):
    assert split_of(name) == side


@given(st.text(st.characters(exclude_characters="/.", exclude_categories=["Cs"]), min_size=1), st.lists(st.just("x"), max_size=3))
def test_only_the_name_of_the_package_decides_the_side(package, deeper):
    assert split_of("/".join([package, *deeper, "a.py"])) == split_of(f"{package}.py")


def test_about_eight_packages_in_ten_train_and_one_in_ten_is_on_each_other_side():
    sides = [split_of(f"package{n}.py") for n in range(5000)]
    assert [sides.count(side) / 5000 for side in SIDES] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_in_the_library_no_text_and_no_package_is_on_two_sides(corpus):
    files = [file for side in SIDES for file in getattr(corpus, side)]
    assert len({file.text for file in files}) == len(files)
    packages = [{file.path.split("/")[0].removesuffix(".py") for file in getattr(corpus, side)} for side in SIDES]
    assert not any(one & other for one, other in itertools.combinations(packages, 2))


def test_in_the_library_each_side_is_in_the_order_of_its_paths_and_nothing_dropped_is_on_one(corpus):
    for side in SIDES:
        paths = [file.path for file in getattr(corpus, side)]
        assert paths == sorted(paths)
        assert not corpus.dropped.keys() & set(paths)


def test_in_the_library_few_held_out_windows_stand_in_training_files(corpus):
    if not corpus.train:
        pytest.skip("the library's sources aren't installed")
    known = stream(corpus.train).tobytes()
    held_out = [window for file in (*corpus.validation, *corpus.test) for window in windows_of(file.text)[::5000]]
    assert len(held_out) > 100
    assert np.mean([window in known for window in held_out]) <= SHARED_AT_MOST


def library(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode() if isinstance(text, str) else text)


def whole(root, **more):
    """Write a library with something on each side, and more files besides."""
    kept = {name: made_up(seed, 300) for seed, name in enumerate(name for side in SIDES for name in names_on(side, 1))}
    library(root, kept | more)
    return kept


def everything(corpus):
    return {file.path: file.text for side in SIDES for file in getattr(corpus, side)}


def test_tests_and_generated_tables_are_left_out(tmp_path):
    left_out = [
        *("test/test_a.py", "test/deep/a.py", "json/tests/a.py", "idlelib/idle_test/a.py", "lib2to3/test/a.py"),
        *("encodings/cp037.py", "pydoc_data/topics.py", "msilib/schema.py", "html/entities.py", "re/_casefix.py"),
        *("stringprep.py", "this.py", "_sysconfigdata__linux_x86_64.py", "site-packages/a.py", "dist-packages/a/b.py"),
        *("__pycache__/a.py", "ensurepip/_bundled/a.py"),
    ]
    stay = ["json/testing.py", "html/parser.py", "re/_parser.py", "ensurepip/a.py", "unittest/a.py", "a/test.py"]
    more = {name: made_up(100 + seed, 300) for seed, name in enumerate(left_out + stay)}
    kept = whole(tmp_path, **more)
    assert everything(load(tmp_path)) == kept | {name: more[name] for name in stay}


def test_a_file_that_cannot_be_decoded_or_is_blank_is_left_out_and_others_are_read_as_python_reads_them(tmp_path):
    name = "é = 1\n" + made_up(50, 100)
    kept = whole(
        tmp_path,
        **{"bad.py": b"x = '\xff'\n", "cookie.py": b"# coding: nonsense\nx = 1\n", "blank.py": " \n\n", "empty.py": ""},
        **{"latin.py": b"# coding: latin-1\n" + name.encode("latin-1"), "mark.py": b"\xef\xbb\xbfx = 2\n"},
        **{"returns.py": b"x = 3\r\ny = 4\rz\n", "text.txt": "x = 5"},
    )
    (tmp_path / "folder.py").mkdir()
    read = {"latin.py": "# coding: latin-1\n" + name, "mark.py": "x = 2\n", "returns.py": "x = 3\ny = 4\nz\n"}
    assert everything(load(tmp_path)) == kept | read


def test_a_library_without_sources_is_replaced_by_the_package_s_own_and_the_origin_says_so(tmp_path):
    corpus = load(tmp_path)
    assert "own source files" in corpus.origin
    assert corpus.train == ()
    assert corpus.validation and corpus.test
    assert not {file.text for file in corpus.validation} & {file.text for file in corpus.test}
    assert "studies/python_source/corpus.py" in everything(corpus)


def test_the_same_text_stays_once_and_rather_where_it_trains():
    validation, train, again = names_on("validation", 1)[0], *sorted(names_on("train", 50))[-2:]
    test = names_on("test", 1)[0]
    assert validation < train
    one, two = made_up(0, 300), made_up(1, 300)
    texts = {train: one, again: one, validation: one, test: two}
    corpus = divide([SourceFile(name, text) for name, text in texts.items()], "here")
    assert everything(corpus) == {train: one, test: two}
    assert corpus.dropped == {again: f"the same text as {train}", validation: f"the same text as {train}"}
    assert corpus.origin == "here"


@pytest.mark.parametrize("side", SIDES[1:])
@pytest.mark.parametrize(("shared", "stays"), [(0, True), (100, True), (101, False), (700, False), (1000, False)])
def test_a_held_out_file_is_dropped_when_more_than_its_share_of_windows_trains(side, shared, stays):
    (train, other), (held_out, short) = names_on("train", 2), names_on(side, 2)
    known, length = made_up(0, 2000), 1000 + WINDOW - 1
    copied = known[500 : 500 + shared + WINDOW - 1] if shared else ""
    text = (copied + "Z" + made_up(1, length))[:length]
    files = [SourceFile(train, known), SourceFile(other, "x = 1\n"), SourceFile(held_out, text), SourceFile(short, known[:50])]
    corpus = divide(files, "here")
    assert share(text, known) == shared / 1000
    assert [file.path for file in getattr(corpus, side)] == sorted([held_out, short] if stays else [short])
    reason = f"{share(text, known):.0%} of its {WINDOW}-character windows stand in training files"
    assert corpus.dropped == ({} if stays else {held_out: reason})


@given(st.text("ab", min_size=60, max_size=70), st.text("ab", min_size=WINDOW, max_size=70), st.integers(1, 40), st.integers(0, 9))
def test_the_share_is_the_one_that_a_plain_set_has(known, text, repeats, cut):
    known = known * repeats + "b" * WINDOW
    text = text + known[cut : cut + 80]
    assert shared_with(text, np.sort(windows(encode(known)))) == share(text, known)


def test_windows_are_told_apart_exactly_where_the_text_is_different(corpus):
    files = corpus.train or corpus.test
    text = "".join(file.text for file in files)[:300_000] + "a" * 3 * WINDOW + "ab" * WINDOW + " " * 2 * WINDOW
    assert len(windows(encode(text))) == len(text) - WINDOW + 1
    _, by_hash = np.unique(windows(encode(text)), return_inverse=True)
    numbers = {}
    by_text = [numbers.setdefault(window, len(numbers)) for window in windows_of(text)]
    assert len(set(zip(by_hash.tolist(), by_text, strict=True))) == len(numbers) == by_hash.max() + 1


@pytest.mark.parametrize("at", range(WINDOW))
def test_a_window_depends_on_each_of_its_characters(at):
    text = made_up(0, WINDOW)
    assert windows(encode(text)) != windows(encode(text[:at] + "X" + text[at + 1 :]))


def test_the_digest_changes_with_a_character_a_path_or_a_border_and_with_nothing_else():
    def digest(*files, side="test", origin=""):
        sides = {name: () for name in SIDES} | {side: tuple(SourceFile(*file) for file in files)}
        return Corpus(**sides, dropped={}, origin=origin).digest(side)

    one = digest(("a.py", "x = 1\n"), ("b.py", "y"))
    assert re.fullmatch("[0-9a-f]{64}", one)
    assert one == digest(("a.py", "x = 1\n"), ("b.py", "y"), side="train", origin="elsewhere")
    others = [
        digest(("a.py", "x = 2\n"), ("b.py", "y")),
        digest(("c.py", "x = 1\n"), ("b.py", "y")),
        digest(("a.py", "x = 1\nb.py"), ("", "y")),
        digest(("a.pyx", " = 1\n"), ("b.py", "y")),
        digest(("b.py", "y"), ("a.py", "x = 1\n")),
        digest(("a.py", "x = 1\n")),
        digest(),
    ]
    assert len({one, *others}) == 1 + len(others)


def test_training_files_too_short_for_a_window_share_nothing():
    files = [SourceFile(f"package{n}.py", f"x = {n}\n" * (1 if split_of(f"package{n}.py") == "train" else 20)) for n in range(40)]
    assert divide(files, "").dropped == {}


def test_only_whole_names_are_left_out():
    assert not _GENERATED.search("dothis.py")
    assert _GENERATED.search("this.py") and _GENERATED.search("a/site-packages/x.py")


def test_twins_with_an_underscore_after_py_go_with_their_module():
    assert all(split_of(f"_py_pack{n}.py") == split_of(f"pack{n}.py") for n in range(50))
