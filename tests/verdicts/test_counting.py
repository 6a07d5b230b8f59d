"""A trained network that counts (Gers & Schmidhuber 2001; Weiss, Goldberg & Yahav 2018): the cell that carries the count is named."""

import numpy as np
import pytest
import torch
from counting import END, reads, trained, words
from torch.nn.functional import binary_cross_entropy_with_logits

import lstm_explain as lx

pytestmark = pytest.mark.long
COUNTS = [1 + (7 * n) % 20 for n in range(24)]
INPUTS, MAY_COME, OPEN, LENGTHS = words(COUNTS)
KEY = "layer.l0"


def loss(output, rows):
    """Whether the end may come is what hangs on the count; which letter may come hangs on whether a b has been read."""
    return binary_cross_entropy_with_logits(output[..., END], MAY_COME[rows][..., END], reduction="none")


@pytest.fixture(scope="module")
def counters():
    """Of the networks of three seeds those that read words four times as long as they were trained on."""
    networks = [trained(seed) for seed in range(3)]
    return [one for one in networks if all(reads(one, n) for n in range(1, 41))]


def squared_correlations(model, state):
    with torch.no_grad(), lx.record(model, lengths=LENGTHS) as recording:
        model(INPUTS)
    states, defined = recording[KEY].signal(state).numpy(), ~np.isnan(OPEN)
    return lx.unit_scores(states[defined], OPEN[defined], permutations=1).scores


def test_most_networks_learn_to_count(counters):
    assert len(counters) >= 2


def test_a_cell_counts_and_no_hidden_unit_does(counters):
    for model in counters:
        cells, hidden = (squared_correlations(model, state) for state in ("cell_state", "hidden_state"))
        assert cells.max() >= 0.99 and hidden.max() <= 0.5


def test_probe_ablation_and_verify_name_the_same_cell_first(counters):
    for model in counters:
        counts = int(squared_correlations(model, "cell_state").argmax())
        with torch.no_grad(), lx.record(model, lengths=LENGTHS) as recording:
            model(INPUTS)
        probed = lx.probe(recording, {"open": OPEN}, groups=COUNTS).labels["open"]
        assert probed.best_unit()[0] == f"{KEY} cell_state" and set(probed.best_unit()[1].units) == {counts}
        ablated = lx.ablation(model, INPUTS, KEY, loss=loss, lengths=LENGTHS, groups=COUNTS)
        assert int(ablated.effects.change.argmax()) == counts
        result = lx.verify(
            [lx.Claim(KEY, unit, "open") for unit in range(2)],
            model,
            INPUTS,
            {"open": OPEN},
            loss=loss,
            output=lambda output: output[..., END],
            lengths=LENGTHS,
            groups=COUNTS,
        )
        first = result.ranked[0]
        assert first.claim.unit == counts
        assert first.knows.score >= 0.99 and first.knows.verdict == "shown"
        # That holding it does more than holding the one other cell, which says what may come, takes more words to show.
        assert first.used.effect.family_low > first.used.noop and first.suffices.share.family_low > 0
