"""The models without a network: the n-gram model as its formula has it, word for word, and what `lzma` can and can't compress."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lstm_explain.studies.python_source import baselines
from lstm_explain.studies.python_source.corpus import CHARACTERS, START_OF_FILE, VOCABULARY, Corpus, SourceFile, stream

SOURCE = "def f(x):\n    return x + 1\n\n\ndef g(x, y):\n    return f(x) * f(y)\n"
TRAIN = [SOURCE, "for x in range(10):\n    print(x)\n", "x" * 30, "x = é\n", ""]
HELD_OUT = ["def h(y):\n    return g(y, 2)\n", "~{é}\n", "x" * 40, ""]


def files(*texts):
    return tuple(SourceFile(f"{at}.py", text) for at, text in enumerate(texts))


class WittenBell:
    """P_k(c | h) = (n(hc) + T(h) P_{k-1}(c | h')) / (n(h) + T(h)), with dictionaries and one character at a time."""

    def __init__(self, symbols, most):
        self.after = [defaultdict(Counter) for _ in range(most)]
        for at, symbol in enumerate(symbols):
            for length, counts in enumerate(self.after):
                counts[tuple(symbols[max(0, at - length) : at])][symbol] += 1

    def probability(self, symbol, before, order):
        if order == 0:
            return 1 / VOCABULARY
        lower = self.probability(symbol, before, order - 1)
        seen = self.after[order - 1].get(tuple(before[max(0, len(before) - order + 1) :]))
        if seen is None:
            return lower
        n, kinds = sum(seen.values()), len(seen)
        return (seen[symbol] + kinds * lower) / (n + kinds)

    def nats(self, symbols, order):
        """Mean over the characters; where a file starts isn't one."""
        places = [at for at, symbol in enumerate(symbols) if symbol != START_OF_FILE]
        return -math.fsum(math.log(self.probability(symbols[at], symbols[:at], order)) for at in places) / len(places)


def assert_as_the_formula_has_it(train, held_out, most):
    train, held_out = stream(files(*train)), stream(files(*held_out))
    slow = WittenBell(train.tolist(), most)
    expected = [slow.nats(held_out.tolist(), order) for order in range(1, most + 1)]
    np.testing.assert_allclose(baselines._nats(train, held_out, most), expected, rtol=0, atol=1e-9)


def test_each_order_gives_the_nats_of_the_formula():
    assert_as_the_formula_has_it(TRAIN, HELD_OUT, 8)


texts = st.lists(st.text("ab\n ", max_size=30), min_size=1, max_size=3)


@given(texts, texts.filter("".join))
def test_each_order_gives_the_nats_of_the_formula_on_made_up_texts(train, held_out):
    assert_as_the_formula_has_it(train, held_out, 4)


@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize("context", ["def f(x", "    return ", "~never~", "x" * 9, "\n\n"])
def test_the_probabilities_of_what_may_follow_are_the_formula_s_and_sum_to_one(context, order):
    train = stream(files(*TRAIN))
    slow = WittenBell(train.tolist(), order)
    before = stream(files(context))
    nats_before = len(context) * baselines._nats(train, before, order)[-1]
    expected = [slow.probability(symbol, before.tolist(), order) for symbol in range(VOCABULARY)]
    assert math.fsum(expected) == pytest.approx(1, abs=1e-12)
    for symbol in range(START_OF_FILE + 1, VOCABULARY):
        longer = np.append(before, np.uint8(symbol))
        nats = (len(context) + 1) * baselines._nats(train, longer, order)[-1] - nats_before
        assert math.exp(-nats) == pytest.approx(expected[symbol], abs=1e-9)


def test_a_longer_context_is_worth_more_until_the_text_no_longer_repeats():
    nats = baselines._nats(stream(files(*[SOURCE] * 3)), stream(files(SOURCE)), 4)
    assert nats == sorted(nats, reverse=True)


def test_the_order_is_chosen_on_the_validation_files_and_scored_on_the_test_files():
    corpus = Corpus(files(*TRAIN), files("for y in f(x):\n    y = x(f)\n", "z = f(x)\n"), files(*HELD_OUT), {}, "here")
    slow = WittenBell(stream(corpus.train).tolist(), 6)
    validation = [slow.nats(stream(corpus.validation).tolist(), order) for order in range(1, 7)]
    result = baselines.ngram(corpus, most=6)
    assert 1 < result["order"] == 1 + validation.index(min(validation)) < 6
    assert result["validation"] == pytest.approx(min(validation), abs=1e-9)
    assert result["test"] == pytest.approx(slow.nats(stream(corpus.test).tolist(), result["order"]), abs=1e-9)


def test_lzma_pays_for_noise_what_noise_is_worth_and_little_for_a_text_that_it_has_seen():
    rng = np.random.default_rng(0)
    known, fresh = ("".join(rng.choice(list(CHARACTERS[:64]), 8000)) for _ in range(2))
    nats = baselines.lzma_nats(Corpus(files("x = 1\n", known), files(known), files(fresh), {}, "here"))
    assert nats["test"] == pytest.approx(math.log(64), rel=0.05)
    assert 0 < nats["validation"] < 0.05 * nats["test"]
