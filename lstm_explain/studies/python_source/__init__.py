"""Character-level language models that read Python source: real text on every machine, with perfect ground truth.

There are two, alike but for their recurrent layers, and each is a study of its own: `make` the one with `PeepholeLSTM`, and
`make_lstm` the one with the stock `torch.nn.LSTM`.
"""

import json
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from lstm_explain.errors import InputError, WeightsError
from lstm_explain.studies.python_source.corpus import CHARACTERS, START_OF_FILE, SourceFile, encode, load
from lstm_explain.studies.python_source.labels import Labels, label
from lstm_explain.studies.python_source.model import SUFFIX, CharacterModel, Recurrent
from lstm_explain.study import Place, Study

LENGTH = 2048
"""Characters in one piece of text, the start symbol included."""
PIECES = 64
"""Pieces of test files."""
LATEST = 160
"""The places to explain are among a piece's first so many characters: what came before all enters."""

LABELS = ("in_string", "in_comment", "bracket_depth", "indentation_depth", "column", "keyword")
OTHER_SHOWN = "\ufffd"
"""Any character outside the alphabet, for people."""
_KINDS = dict.fromkeys(("in_string", "in_comment"), bool) | dict.fromkeys(("bracket_depth", "indentation_depth", "column"), np.float64)
"""Yes or no, and numbers; a keyword is a class, with -1 where no word has just ended."""


def load_model(weights: Path | None = None, recurrent: Recurrent = "peephole") -> CharacterModel:
    """A bundled network, or one with weights from a safetensors file that ``train`` wrote.

    Raises
    ------
    WeightsError
        If the file can't be read, or doesn't hold this network's weights.
    """
    if weights is None:
        with as_file(files(__name__) / f"weights{SUFFIX[recurrent]}.safetensors") as path:
            return load_model(path, recurrent)
    try:
        loaded = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"needed a safetensors file that can be read, got {weights}: {error}") from error
    model = CharacterModel(recurrent)
    for name, expected in model.state_dict().items():
        if name not in loaded:
            raise WeightsError(f"needed {name} in {weights}, which has {', '.join(sorted(loaded)) or 'nothing'}")
        got = loaded[name]
        if got.shape != expected.shape or got.dtype != expected.dtype:
            raise WeightsError(
                f"needed {name} of shape {tuple(expected.shape)}, {expected.dtype}, got {tuple(got.shape)}, {got.dtype} in {weights}"
            )
    if extra := sorted(set(loaded) - set(model.state_dict())):
        raise WeightsError(f"needed this network's weights only, got {', '.join(extra)} too in {weights}")
    model.load_state_dict(loaded)
    return model.eval()


def card(recurrent: Recurrent = "peephole") -> dict[str, Any]:
    """How a bundled network was trained, on which text, and how good it is."""
    return dict(json.loads((files(__name__) / f"card{SUFFIX[recurrent]}.json").read_text(encoding="utf-8")))


def _beginnings(labels: Labels) -> NDArray[np.int64]:
    """Where a piece may begin: at a line outside every string, comment and bracket, so that its labels can be known from it."""
    outside = ~labels.in_string & ~labels.in_comment & (labels.bracket_depth == 0) & (labels.column == 0)
    return np.concatenate([[0], np.flatnonzero(outside) + 1])


def _pieces(chosen: tuple[SourceFile, ...]) -> list[tuple[SourceFile, Labels, int]]:
    """All pieces of some files, one after the other: the file, its labels, and where the piece begins."""
    pieces = []
    for file in chosen:
        try:
            labels = label(file.text)
        except InputError:
            continue
        beginnings, at = _beginnings(labels), 0
        while at < len(file.text):
            pieces.append((file, labels, at))
            after = beginnings[beginnings >= at + LENGTH - 1]
            at = int(after[0]) if len(after) else len(file.text)
    return pieces


def _log_probabilities(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1)


_PLACES = (
    "The places are the first in the text at which a bracket, a quote or a block closes 20 to 120 characters after what it closes, and the "
    "network gives the character that comes at least an even chance. The baseline is blank text: a space in every place."
)


def _places(model: CharacterModel, symbols: NDArray[np.int64], lengths: list[int], labels: Mapping[str, NDArray[Any]]) -> list[Place]:
    """What `_PLACES` says."""
    strings, depth, blocks = (labels[name] for name in ("in_string", "bracket_depth", "indentation_depth"))
    closings = {
        "a closing bracket": (depth[:, :-1] == 1) & (depth[:, 1:] == 0),
        "a closing quote": strings[:, :-1] & ~strings[:, 1:],
        "the first character after a dedent": blocks[:, 1:] < blocks[:, :-1],
    }
    opened = {"a closing bracket": depth > 0, "a closing quote": strings, "the first character after a dedent": blocks}
    places: dict[str, Place] = {}
    for row, length in enumerate(lengths):
        end = min(length, LATEST) - 1
        with torch.no_grad():
            chances = model(torch.from_numpy(symbols[row : row + 1, :end]))[0].softmax(-1).numpy()
        for what, closes in closings.items():
            for step in np.flatnonzero(closes[row, :end]):
                inside, came = opened[what][row, : step + 1], int(symbols[row, step + 1])
                since = int(np.argmax((inside != inside[-1])[::-1]))
                if 20 <= since <= 120 and chances[step, came] >= 0.5:
                    places.setdefault(what, Place(what, row, (int(step), came)))
        if len(places) == len(closings):
            break
    return [places[what] for what in closings if what in places]


def make(seed: int = 0, weights: Path | None = None, recurrent: Recurrent = "peephole") -> Study:
    """The study: pieces of test files drawn by `seed`, from the interpreter's own library.

    Raises
    ------
    WeightsError
        If the weights can't be used.
    InputError
        If there is no text, or a weight isn't finite.
    """
    model, corpus, facts = load_model(weights, recurrent), load(), card(recurrent)
    rng = np.random.default_rng(seed)
    pieces = _pieces(corpus.test)
    rows = [pieces[at] for at in np.sort(rng.choice(len(pieces), min(PIECES, len(pieces)), replace=False))]

    symbols = np.full((len(rows), LENGTH + 1), START_OF_FILE, dtype=np.int64)
    lengths, tokens = [], []
    labels = {name: np.full((len(rows), LENGTH), -1 if name == "keyword" else 0, dtype=np.int32) for name in LABELS}
    for row, (file, known, at) in enumerate(rows):
        text = file.text[at : at + LENGTH]
        symbols[row, 1 : len(text) + 1] = encode(text)
        lengths.append(len(text))
        read = text[: LENGTH - 1]
        tokens.append(["", *read])
        for name, values in labels.items():
            whole = getattr(known, name)
            values[row, 0] = values[row, 0] if at == 0 or name == "keyword" else whole[at - 1]
            values[row, 1 : len(read) + 1] = whole[at : at + len(read)]
    targets = torch.from_numpy(symbols[:, 1:])

    def loss(logits: Tensor, rows: Any) -> Tensor:
        wanted = targets[rows, : logits.shape[1]].to(logits.device)
        return cross_entropy(logits.transpose(1, 2), wanted, reduction="none")

    same = facts["text"]["sha256"]["train"] == corpus.digest("train")
    given = {name: values.astype(_KINDS.get(name, values.dtype)) for name, values in labels.items()}
    return Study(
        model,
        torch.from_numpy(symbols[:, :-1]),
        lengths=lengths,
        labels=given,
        # A column is a count from the last newline on.
        events={"column": given["column"] == 0},
        groups=[file.path for file, _, _ in rows],
        tokens=tokens,
        output=_log_probabilities,
        places=_places(model, symbols, lengths, given),
        baselines=int(encode(" ")[0]),
        loss=loss,
        next_tokens=("", OTHER_SHOWN, *CHARACTERS),
        name=f"python_source{SUFFIX[recurrent]}",
        about={
            "what": f"a character-level language model that reads Python source ({facts['model']})",
            "text": corpus.origin,
            "sha256": {split: corpus.digest(split) for split in ("train", "validation", "test")},
            "trained_on_this_text": same,
            "dropped": corpus.dropped,
            "card": facts,
            "caveats": {
                "saturation": "This network was trained with a price on forgetting (its card says how much), so few left-saturated forget "
                "gates are what it was asked for, and no independent confirmation.",
                "attribution": _PLACES,
            },
        },
    )


def make_lstm(seed: int = 0, weights: Path | None = None) -> Study:
    """The study of the stock network, on the same text as `make`, which says the rest."""
    return make(seed, weights, "lstm")
