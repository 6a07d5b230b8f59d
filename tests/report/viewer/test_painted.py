"""What outputs hang on: held against occlusion step by step, in blocks, of every kind of output and of symbols."""

import numpy as np
import pytest
import torch
from torch import nn

import lstm_explain as lx
from lstm_explain.report.viewer import painted as module
from lstm_explain.report.viewer.painted import painted
from lstm_explain.report.viewer.pieces import Piece


def series(layer=None, **changes):
    torch.manual_seed(0)
    given = {"lengths": [9, 7], "target": (-1, 1), "output": lambda returned: returned[0], "baselines": 0.5}
    layer = layer or nn.LSTM(2, 3, batch_first=True)
    return lx.Study(layer.double(), torch.randn(2, 9, 2).double(), **(given | changes))


def of(study, row, start, stop):
    """Of one piece."""
    found = painted(study, [Piece(row, "", start, stop)])
    assert not isinstance(found, str), found
    return found, found.parts[0]


def occluded(study, row):
    """All steps to all outputs, by another road: ``(output, step)``."""
    length = study.sequence_lengths[row]
    baselines = study.baselines[:length] if isinstance(study.baselines, torch.Tensor) else study.baselines
    inputs, given = study.inputs[row : row + 1, :length], {"method": "occlusion", "baselines": baselines, "lengths": [length]}
    return lx.attribution_matrix(study.model, inputs, target=study.target[1], output=study.output, **given)


@pytest.mark.parametrize("baselines", [0.5, torch.linspace(-1, 1, 18).view(9, 2).double()], ids=["number", "sequence"])
@pytest.mark.parametrize("row", [0, 1])
def test_contributions_are_those_of_occlusion(row, baselines):
    study = series(baselines=baselines)
    whole, found = of(study, row, 2, 7)
    expected = occluded(study, row)
    np.testing.assert_allclose(found.contributions, expected.attributions[0, 2:7, 2:7], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.output, expected.output[0, 2:7], rtol=0, atol=1e-12)
    with torch.no_grad():
        none = study.inputs[row : row + 1].clone()
        none[:, 2:7] = 0.5 if isinstance(baselines, float) else baselines[2:7]
        change = found.output - study.model(none)[0][0, 2:7, 1].numpy()
    np.testing.assert_allclose(found.residual, change - found.contributions.sum(1), rtol=0, atol=1e-12)
    assert (whole.whole, whole.ahead, whole.what) == (False, False, "output 1 at each step")
    assert np.abs(found.contributions[np.triu_indices(5, 1)]).max() < 1e-15


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("start", "stop"), [(0, 9), (1, 9), (2, 6)])
def test_in_blocks_each_output_hangs_on_its_own_and_the_one_before(both, start, stop, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 2)
    study = series(nn.LSTM(2, 3, batch_first=True, bidirectional=both), target=(-1, 4 if both else 1))
    whole, found = of(study, 0, start, stop)
    expected = occluded(study, 0).attributions[0, start:stop, start:stop]
    block = np.arange(stop - start) // 2
    apart = block[:, None] - block[None]
    # A step is replaced for its own block and the next; reading both ways, for the one before too.
    asked = (apart >= (-1 if both else 0)) & (apart <= 1)
    assert whole.ahead == both and (np.isnan(found.contributions) == ~asked).all()
    np.testing.assert_allclose(found.contributions[asked], expected[asked], rtol=0, atol=1e-12)
    for output in range(stop - start):
        steps = np.flatnonzero(asked[output])
        with torch.no_grad():
            none = study.inputs[:1].clone()
            none[0, steps + start] = 0.5
            together = found.output[output] - float(study.model(none)[0][0, output + start, study.target[1]])
        assert found.residual[output] == pytest.approx(together - expected[output, steps].sum(), abs=1e-12)


def test_as_many_outputs_as_there_is_time_for(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 2)
    # The blocks cost 3 passes to the end of the next one each: of 4, 6, 7 and 7 steps in the second sequence.
    pieces = [Piece(1, "", 0, 7), Piece(0, "", 0, 9)]
    for most, shapes in ((11, None), (12, [(2, 2)]), (30, [(4, 4)]), (72, [(7, 7)]), (84, [(7, 7), (2, 2)])):
        monkeypatch.setattr(module, "MOST", most)
        found = painted(series(), pieces)
        assert ([part.contributions.shape for part in found.parts] if shapes else found) == (
            shapes or "the model would have to read more than 11 steps"
        )
        assert not shapes or not any(np.isnan(part.residual).any() for part in found.parts)


def test_passes_are_split_where_they_would_be_large(monkeypatch):
    whole = of(series(), 0, 0, 9)[1]
    monkeypatch.setattr(module, "AT_ONCE", 10)
    for part, expected in zip(of(series(), 0, 0, 9)[1], whole, strict=True):
        np.testing.assert_allclose(part, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2])
def test_one_output_for_the_sequence_has_one_row(count, monkeypatch):
    study = series(output=lambda returned: returned[1][0][0], target=1)
    whole, found = of(study, 1, 2, 7)
    expected = lx.attribute(
        study.model, study.inputs[1:, :7], target=1, method="occlusion", baselines=0.5, output=study.output, lengths=[7]
    )
    assert whole.whole and whole.what == "output 1 of the sequence"
    np.testing.assert_allclose(found.contributions, expected.by_step[:, 2:7], rtol=0, atol=1e-12)
    monkeypatch.setattr(module, "MOST", 7 * (count + 1))
    assert of(study, 1, 2, 7)[1].contributions.shape == (1, count)


class Next(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 3, batch_first=True)

    def forward(self, symbols):
        return self.lstm(nn.functional.one_hot(symbols, 3).float())[0]


def letters(**changes):
    torch.manual_seed(0)
    symbols = torch.randint(3, (2, 8))
    return lx.Study(Next(), symbols, tokens=[["abc"[n] for n in row] for row in symbols.tolist()], next_tokens=["a", "b", "c"], **changes)


def test_of_a_language_model_it_is_what_came_next():
    study = letters(baselines=2)
    _, found = of(study, 1, 0, 8)

    def logs(symbols):
        with torch.no_grad():
            return study.model(symbols).log_softmax(-1)[0][range(7), study.inputs[1, 1:]].numpy()

    np.testing.assert_allclose(found.output, logs(study.inputs[1:]), rtol=0, atol=1e-6)
    assert found.contributions.shape == (7, 8)
    for step in range(8):
        symbols = study.inputs[1:].clone()
        symbols[0, step] = 2
        np.testing.assert_allclose(found.contributions[:, step], found.output - logs(symbols), rtol=0, atol=1e-6)


class Tagger(nn.Module):
    """Reads the lengths off its padding, as many do: symbol 0."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3, padding_idx=0)
        self.lstm = nn.LSTM(3, 3, batch_first=True, bidirectional=True)

    def forward(self, symbols):
        lengths = (symbols != 0).sum(1)
        packed = nn.utils.rnn.pack_padded_sequence(self.embedding(symbols), lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=symbols.shape[1])[0]


def tagger(**changes):
    torch.manual_seed(0)
    symbols = torch.randint(1, 5, (2, 6))
    symbols[1, 4:] = 0
    return lx.Study(Tagger().double(), symbols, lengths=[6, 4], target=(-1, 4), **changes)


def test_symbols_are_replaced_where_they_are_looked_up_so_that_lengths_stay():
    study = tagger()
    whole, found = of(study, 1, 0, 4)
    expected = occluded(study, 1)
    np.testing.assert_allclose(found.contributions, expected.attributions[0], rtol=0, atol=1e-12)
    assert whole.ahead and not np.isnan(found.residual).any()


def test_where_the_model_cannot_read_a_sequence_without_all_of_its_steps_what_is_left_over_is_not_known():
    _, found = of(tagger(baselines=0), 1, 0, 4)
    assert np.isfinite(found.contributions).all() and np.isnan(found.residual).all()


@pytest.mark.parametrize(
    ("study", "why"),
    [
        (series(target=None), "the study doesn't say which output to explain: give it target= or places="),
        (letters(), "needed one torch.nn.Embedding to attribute whole-number inputs in its space, found none"),
        (letters(baselines=3), "the model can't read a sequence with a step replaced"),
    ],
    ids=["no target", "no embedding", "no such symbol"],
)
def test_why_nothing_is_painted_is_said(study, why):
    assert painted(study, [Piece(0, "", 0, 5)]).startswith(why)
