"""Two models without a network, on the same text: an interpolated n-gram model and `lzma`."""

import lzma
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lstm_explain.studies.python_source.corpus import START_OF_FILE, VOCABULARY, Corpus, SourceFile, encode, stream


def _grams(symbols: NDArray[np.uint8], order: int) -> NDArray[np.uint64]:
    """A hash of the last `order` symbols at each place (fewer at the beginning)."""
    values = np.zeros(len(symbols), dtype=np.uint64)
    shifted = symbols.astype(np.uint64) + np.uint64(1)
    for _ in range(order):
        values[1:] = values[:-1].copy()
        values[0] = 0
        values = values * np.uint64(0x9E3779B97F4A7C15) + shifted
    return values


def _look_up(keys: NDArray[np.uint64], counts: NDArray[np.int64], wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, counts[at], 0)


def _nats(train: NDArray[np.uint8], held_out: NDArray[np.uint8], most: int) -> list[float]:
    """Nats per character of `held_out` under the interpolated models of order 1 to `most`."""
    predicted = held_out != START_OF_FILE
    probability = np.full(len(held_out), 1 / VOCABULARY)
    nats = []
    for order in range(1, most + 1):
        # Witten & Bell 1991: an order is trusted by how often its context was followed by something new.
        grams, first, counts = np.unique(_grams(train, order), return_index=True, return_counts=True)
        before = np.concatenate([[np.uint64(0)], _grams(train, order - 1)[:-1]])
        contexts, total = np.unique(before, return_counts=True)
        context_of_gram = np.searchsorted(contexts, before[first])
        kinds = np.bincount(context_of_gram, minlength=len(contexts))
        asked = np.concatenate([[np.uint64(0)], _grams(held_out, order - 1)[:-1]])
        n, t = _look_up(contexts, total, asked), _look_up(contexts, kinds, asked)
        together = _look_up(grams, counts, _grams(held_out, order))
        probability = np.where(n > 0, (together + t * probability) / np.maximum(n + t, 1), probability)
        nats.append(float(-np.log(probability[predicted]).mean()))
    return nats


def ngram(corpus: Corpus, most: int = 12) -> dict[str, Any]:
    """The interpolated n-gram model (Witten & Bell 1991), its order chosen on the validation files."""
    train = stream(corpus.train)
    validation = _nats(train, stream(corpus.validation), most)
    order = int(np.argmin(validation)) + 1
    test = _nats(train, stream(corpus.test), order)[-1]
    return {"order": order, "validation": validation[order - 1], "test": test}


def lzma_nats(corpus: Corpus) -> dict[str, float]:
    """Nats per character that `lzma` (preset 9, extreme) adds to the compressed training text for the held-out text."""

    def symbols(files: tuple[SourceFile, ...]) -> bytes:
        return b"".join(encode(file.text).tobytes() for file in files)

    def size(data: bytes) -> int:
        return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))

    train = symbols(corpus.train)
    alone = size(train)
    nats = {}
    for split in ("validation", "test"):
        held_out = symbols(getattr(corpus, split))
        nats[split] = 8 * math.log(2) * (size(train + held_out) - alone) / len(held_out)
    return nats
