"""The text: the standard library of the interpreter that runs this, split so that no package is on both sides.

Left out: tests, generated tables, and the files that `_GENERATED` names. Duplicates are dropped. A file's side is decided by
a hash of its top-level package alone, so two Python versions agree; a held-out file is dropped when more than
`SHARED_AT_MOST` of its 64-character windows stand word for word in a training file.
"""

import functools
import hashlib
import re
import sysconfig
import tokenize
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lstm_explain.errors import InputError

Split = Literal["train", "validation", "test"]

START_OF_FILE, OTHER = 0, 1
CHARACTERS = "\n\t" + "".join(map(chr, range(32, 127)))
VOCABULARY = 2 + len(CHARACTERS)
"""Symbols: the start of a file, any character outside ASCII's printable ones, newline, tab, and the printable ones."""

WINDOW = 64
SHARED_AT_MOST = 0.1

_TESTS = {"test", "tests", "idle_test"}
_GENERATED = re.compile(
    r"""(^|/)((encodings|pydoc_data|msilib|site-packages|dist-packages|__pycache__|ensurepip/_bundled)/
      | _sysconfigdata.*\.py$ | html/entities\.py$ | re/_casefix\.py$ | stringprep\.py$ | this\.py$)""",
    re.VERBOSE,
)


class SourceFile(NamedTuple):
    """One file: its path below the library's root, in posix form, and its text with line feeds as line ends."""

    path: str
    text: str


class Corpus(NamedTuple):
    """The three sides, each in the order of its paths; what was dropped and why; where it came from."""

    train: tuple[SourceFile, ...]
    validation: tuple[SourceFile, ...]
    test: tuple[SourceFile, ...]
    dropped: dict[str, str]
    origin: str

    def digest(self, split: Split) -> str:
        """SHA-256 of one side's paths and texts."""
        sha = hashlib.sha256()
        for file in getattr(self, split):
            sha.update(f"{file.path}\0{file.text}\0".encode())
        return sha.hexdigest()


def encode(text: str) -> NDArray[np.uint8]:
    """One symbol for each character; characters outside the alphabet become `OTHER`."""
    codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")
    table = np.full(128, OTHER, dtype=np.uint8)
    for symbol, character in enumerate(CHARACTERS, start=2):
        table[ord(character)] = symbol
    symbols: NDArray[np.uint8] = table[np.minimum(codes, 127)]
    return symbols


def stream(files: Iterable[SourceFile]) -> NDArray[np.uint8]:
    """Files one after the other, each behind `START_OF_FILE`."""
    start = np.array([START_OF_FILE], dtype=np.uint8)
    return np.concatenate([np.empty(0, dtype=np.uint8), *(part for file in files for part in (start, encode(file.text)))])


def split_of(path: str) -> Split:
    """The side of a file: 80 % of the package names train, 10 % validate, 10 % test.

    A pure Python twin of an accelerated module (``_pydecimal``) goes where its module goes.
    """
    package = re.sub(r"^_(py_?)?", "", path.split("/")[0].removesuffix(".py"))
    share = int.from_bytes(hashlib.blake2s(package.encode()).digest()[:8], "big") / 2**64
    return "train" if share < 0.8 else "validation" if share < 0.9 else "test"


def _read(root: Path) -> list[SourceFile]:
    files = []
    for name, path in sorted((path.relative_to(root).as_posix(), path) for path in root.rglob("*.py")):
        if _GENERATED.search(name) or _TESTS & set(name.split("/")[:-1]):
            continue
        try:
            with tokenize.open(path) as file:
                text = file.read()
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue
        if text.strip():
            files.append(SourceFile(name, text))
    return files


def windows(symbols: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """A 64-bit hash of each run of `WINDOW` symbols."""
    if len(symbols) < WINDOW:
        return np.empty(0, dtype=np.uint64)
    values = symbols.astype(np.uint64) + np.uint64(1)
    width, base = 1, 0x9E3779B97F4A7C15
    while width < WINDOW:
        values = values[:-width] * np.uint64(base) + values[width:]
        values ^= values >> np.uint64(29)
        base = base * 0xBF58476D1CE4E5B9 % 2**64
        width *= 2
    return values


def shared_with(text: str, known: NDArray[np.uint64]) -> float:
    """The share of a text's 64-character windows that `known` (sorted, from `windows`) has too."""
    if len(text) < WINDOW or len(known) == 0:
        return 0.0
    # Sorted, since neighbours are then looked for in the same place.
    found = np.sort(windows(encode(text)))
    at = np.searchsorted(known, found)
    return float(np.mean(known[np.minimum(at, len(known) - 1)] == found))


def divide(files: Sequence[SourceFile], origin: str) -> Corpus:
    """Drop duplicates and near-duplicates and split the rest."""
    sides: dict[Split, list[SourceFile]] = {"train": [], "validation": [], "test": []}
    dropped: dict[str, str] = {}
    seen: dict[str, str] = {}
    for file in sorted(files, key=lambda file: (split_of(file.path) != "train", file.path)):
        twin = seen.setdefault(file.text, file.path)
        if twin != file.path:
            dropped[file.path] = f"the same text as {twin}"
        else:
            sides[split_of(file.path)].append(file)
    if sides["train"]:
        known = np.sort(np.concatenate([windows(encode(file.text)) for file in sides["train"]]))
        for split in ("validation", "test"):
            for file in list(sides[split]):
                shared = shared_with(file.text, known)
                if shared > SHARED_AT_MOST:
                    sides[split].remove(file)
                    dropped[file.path] = f"{shared:.0%} of its {WINDOW}-character windows stand in training files"
    return Corpus(tuple(sides["train"]), tuple(sides["validation"]), tuple(sides["test"]), dropped, origin)


def library_root() -> Path:
    """Where this interpreter's standard library lies."""
    return Path(sysconfig.get_path("stdlib"))


@functools.cache
def load(root: Path | None = None) -> Corpus:
    """The corpus of this interpreter, or of another library at `root`.

    Where the library has no sources (a stripped or zipped installation), the package's own source files stand in for the
    held-out side, and `Corpus.origin` says so.

    Raises
    ------
    InputError
        If there is no Python source at all.
    """
    files = _read(root or library_root())
    corpus = divide(files, f"the standard library of Python {sysconfig.get_python_version()}")
    if corpus.train and corpus.validation and corpus.test:
        return corpus
    own = _read(Path(__file__).parents[2])
    if not own:
        raise InputError(f"needed Python source files to read, found none in {root or library_root()} nor in the package itself")
    origin = "the package's own source files, because the standard library's aren't installed here"
    return Corpus((), tuple(own[::2]), tuple(own[1::2]), {}, origin)
