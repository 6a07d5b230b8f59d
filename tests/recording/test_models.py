"""Models of the shapes in which others have written them: all layers are found, and hold what PyTorch's cells give in a loop."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from cases import close
from torch import nn
from torch.nn.functional import dropout, linear
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lstm_explain.recording.runner import record

CELLS = {"LSTM": nn.LSTMCell, "GRU": nn.GRUCell, "RNN_TANH": nn.RNNCell, "RNN_RELU": partial(nn.RNNCell, nonlinearity="relu")}
WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in value for tensor in tensors_in(part)] if isinstance(value, (tuple, list)) else []


def recorded(model, run):
    """What a run returns while it is recorded, bit for bit what it returns without, and the recording."""
    passes = []
    for context in (nullcontext(), record(model)):
        torch.manual_seed(3)
        with context as recording:
            returned = run()
        passes.append([*tensors_in(returned), torch.get_rng_state()])
    assert len(passes[0]) == len(passes[1]) and all(map(torch.equal, *passes))
    assert recording.certificate.state == "certified"
    assert not recording.coverage.never_called and not recording.coverage.not_opened
    return returned, recording


def shapes(recording):
    return {key: tuple(trajectory.hidden_state.shape) for key, trajectory in recording.items()}


def weights_of(layer, suffix=""):
    return [getattr(layer, f"{name}{suffix and '_'}{suffix}").detach().clone() for name in WEIGHTS]


@torch.no_grad()
def stepped(weights, x, state=None, kind="LSTM"):
    """One layer over x ``(time, batch, feature)`` by a cell in a loop: its signals ``(batch, time, unit)``."""
    cell = CELLS[kind](x.shape[2], weights[1].shape[1], dtype=x.dtype)
    for name, weight in zip(WEIGHTS, weights, strict=True):
        getattr(cell, name).copy_(weight)
    h = x.new_zeros(x.shape[1], cell.hidden_size)
    h, c = state or (h, h)
    rows = []
    for now in x:
        gates = linear(now, cell.weight_ih, cell.bias_ih) + linear(h, cell.weight_hh, cell.bias_hh) if kind == "LSTM" else None
        h, c = cell(now, (h, c)) if kind == "LSTM" else (cell(now, h), c)
        row = {"hidden_state": h}
        if kind == "LSTM":
            i, f, g, o = gates.chunk(4, dim=1)
            row |= {"input_gate": i.sigmoid(), "forget_gate": f.sigmoid(), "cell_candidate": g.tanh(), "output_gate": o.sigmoid()}
            row["cell_state"] = c
        rows.append(row)
    return {name: torch.stack([row[name] for row in rows], dim=1) for name in rows[0]}


def assert_signals(trajectory, signals, rows=slice(None)):
    for name, signal in signals.items():
        close(trajectory.signals[name][rows, : signal.shape[1]], signal)
    assert trajectory.residual() <= 1e-12


class WordModel(nn.Module):
    """Words in, words out; the words' own vectors read the answer, and the caller carries the state."""

    def __init__(self, kind, words=11, width=6, layers=2):
        super().__init__()
        layer, options = (nn.RNN, {"nonlinearity": kind[4:].lower()}) if kind.startswith("RNN") else (getattr(nn, kind), {})
        self.drop, self.vectors = nn.Dropout(0.3), nn.Embedding(words, width)
        self.layers = layer(width, width, layers, dropout=0.3, **options)
        self.answer = nn.Linear(width, words)
        self.answer.weight = self.vectors.weight

    def forward(self, words, state):
        hidden, state = self.layers(self.drop(self.vectors(words)), state)
        return self.answer(self.drop(hidden)).log_softmax(2), state


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", CELLS)
def test_windows_of_a_language_model_are_one_text(kind, training):
    torch.manual_seed(0)
    model, words = WordModel(kind).double().train(training), torch.randint(11, (17, 3))
    zeros = torch.zeros(2, 3, 6, dtype=torch.float64)

    def run():
        state, answers = (zeros, zeros) if kind == "LSTM" else zeros, []
        model.zero_grad()
        for window in words.split(5):
            answer, state = model(window, state)
            state = tuple(part.detach() for part in state) if kind == "LSTM" else state.detach()
            answer.sum().backward()
            answers.append(answer)
        return answers, state, [parameter.grad.clone() for parameter in model.parameters()]

    (_, state, _), recording = recorded(model, run)
    assert recording.coverage.recorded == {"layers": 4} and shapes(recording) == dict.fromkeys(("layers.l0", "layers.l1"), (3, 17, 6))
    close(recording["layers.l1"].hidden_state[:, -1], (state[0] if kind == "LSTM" else state)[1])
    if not training:
        x = model.vectors(words).detach()
        for suffix in ("l0", "l1"):
            signals = stepped(weights_of(model.layers, suffix), x, kind=kind)
            assert_signals(recording[f"layers.{suffix}"], signals)
            x = signals["hidden_state"].transpose(0, 1)


class Continued(nn.Module):
    """Two cells, one on the other, that go on from their own answers when the input has ended."""

    def __init__(self):
        super().__init__()
        self.below, self.above = nn.LSTMCell(1, 7, dtype=torch.float64), nn.LSTMCell(7, 5, dtype=torch.float64)
        self.answer = nn.Linear(5, 1, dtype=torch.float64)

    def forward(self, series, beyond=0):
        states = [[series.new_zeros(len(series), cell.hidden_size)] * 2 for cell in (self.below, self.above)]
        answers = []
        for at in range(series.shape[1] + beyond):
            now = series[:, at : at + 1] if at < series.shape[1] else answers[-1]
            states[0] = self.below(now, tuple(states[0]))
            states[1] = self.above(states[0][0], tuple(states[1]))
            answers.append(self.answer(states[1][0]))
        return torch.cat(answers, dim=1)


def test_cells_in_a_loop_go_on_beyond_their_input():
    torch.manual_seed(0)
    model, series = Continued(), torch.rand(4, 9, dtype=torch.float64)
    with torch.no_grad():
        answers, recording = recorded(model, lambda: model(series, beyond=6))
    assert shapes(recording) == {"below": (4, 15, 7), "above": (4, 15, 5)} and recording.coverage.recorded == {"below": 15, "above": 15}
    read = torch.cat([series, answers[:, 8:-1]], dim=1).T.unsqueeze(2)
    below = stepped(weights_of(model.below), read)
    assert_signals(recording["below"], below)
    assert_signals(recording["above"], stepped(weights_of(model.above), below["hidden_state"].transpose(0, 1)))


def test_each_pass_of_a_training_loop_of_cells_is_new_rows():
    torch.manual_seed(0)
    model, series = Continued(), torch.rand(2, 5, dtype=torch.float64)

    def run():
        losses = []
        for _ in range(3):
            losses.append(model(series).square().sum())
            losses[-1].backward()
        return losses

    _, recording = recorded(model, run)
    assert shapes(recording) == {"below": (6, 5, 7), "above": (6, 5, 5)}


class Thinned(nn.Module):
    """A layer whose recurrent weights are thinned out anew for each call, and which is then called past all hooks."""

    def __init__(self, layer, share):
        super().__init__()
        self.module, self.share, self.used = layer, share, []
        self.whole = nn.Parameter(layer.weight_hh_l0.detach().clone())
        del layer.weight_hh_l0

    def forward(self, *args):
        self.module.weight_hh_l0 = dropout(self.whole, self.share, self.training).clone()
        self.used.append(self.module.weight_hh_l0.detach())
        return self.module.forward(*args)


class ThinnedModel(nn.Module):
    """A list of layers of one layer each, one of another width."""

    def __init__(self, kind):
        super().__init__()
        sizes = [(4, 6), (6, 6), (6, 4)]
        self.layers = nn.ModuleList(Thinned(getattr(nn, kind)(*size, dtype=torch.float64), 0.5) for size in sizes)
        self.read = [[] for _ in sizes]

    def forward(self, x, states):
        after = []
        for at, (layer, state) in enumerate(zip(self.layers, states, strict=True)):
            self.read[at].append(x.detach())
            x, state = layer(x, state)
            after.append(state)
            x = x * (torch.rand(1, *x.shape[1:], dtype=x.dtype) > 0.3) if self.training else x
        return x, after


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_weights_are_those_of_the_very_call(kind, training):
    torch.manual_seed(0)
    model, x = ThinnedModel(kind).train(training), torch.randn(9, 3, 4, dtype=torch.float64)
    for layer in model.layers:
        layer.used.clear()

    def run():
        zeros = [torch.zeros(1, 3, layer.module.hidden_size, dtype=x.dtype) for layer in model.layers]
        states, outputs = [(h, h) if kind == "LSTM" else h for h in zeros], []
        for window in x.split(5):
            output, states = model(window, states)
            outputs.append(output)
        outputs[-1].sum().backward()
        return outputs, states

    _, recording = recorded(model, run)
    keys = [f"layers.{at}.module.l0" for at in range(3)]
    assert shapes(recording) == dict(zip(keys, [(3, 9, 6), (3, 9, 6), (3, 9, 4)], strict=True))
    for at, key in enumerate(keys):
        layer, state, start = model.layers[at], None, 0
        for weight, read in zip(layer.used[-2:], model.read[at][-2:], strict=True):
            w_i, _, b_i, b_h = (getattr(layer.module, f"{name}_l0").detach() for name in WEIGHTS)
            signals = stepped((w_i, weight, b_i, b_h), read, state, kind)
            for name, signal in signals.items():
                close(recording[key].signals[name][:, start : start + len(read)], signal)
            last = signals["hidden_state"][:, -1]
            state, start = (last, signals.get("cell_state", signals["hidden_state"])[:, -1]), start + len(read)
        assert recording[key].residual() <= 1e-12
    assert torch.equal(*model.layers[0].used[-2:]) is not training


class Reader(nn.Module):
    """Reads words that are padded in front: moves the padding to the end, packs, starts from zeros, joins the directions' last states."""

    def __init__(self, words, width, layers):
        super().__init__()
        self.vectors, self.width = nn.Embedding(words, width, padding_idx=0), width
        self.lstm = nn.LSTM(width, width, layers, dropout=0.2, bidirectional=True)

    def forward(self, words, lengths, in_order):
        words = torch.stack([row.roll(int(length)) for row, length in zip(words, lengths, strict=True)])
        packed = pack_padded_sequence(self.vectors(words).transpose(0, 1), lengths, enforce_sorted=in_order)
        zeros = self.vectors.weight.new_zeros(2 * self.lstm.num_layers, len(words), self.width)
        output, last = self.lstm(packed, (zeros, zeros.clone()))
        both = [state.view(-1, 2, *state.shape[1:]).transpose(1, 2).flatten(2) for state in last]
        return pad_packed_sequence(output)[0], both


class Writer(nn.Module):
    """Cells in a stack; each word is read together with the answer before it, and a dictionary carries what the next call needs."""

    def __init__(self, words, width, layers):
        super().__init__()
        self.vectors, self.drop = nn.Embedding(words, width), nn.Dropout(0.2)
        self.cells = nn.ModuleList(nn.LSTMCell(2 * width if at == 0 else width, width) for at in range(layers))
        self.narrow = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(2))
        self.look, self.read = nn.Linear(3 * width, width), []

    def forward(self, words, memory, last, cache=None):
        if cache:
            h, c, fed = cache["h"], cache["c"], cache["fed"]
            words = words[:, -1:]
        else:
            h, c = (list(narrow(state)) for narrow, state in zip(self.narrow, last, strict=True))
            fed = torch.zeros_like(h[0])
        outputs = []
        for word in self.vectors(words).unbind(1):
            x = torch.cat([word, fed], dim=1)
            for at, cell in enumerate(self.cells):
                self.read.append((at, x.detach()))
                h[at], c[at] = cell(x, (h[at], c[at]))
                x = self.drop(h[at])
            seen = (memory * memory.sum(2, keepdim=True).softmax(0)).sum(0)
            fed = self.look(torch.cat([h[-1], seen], dim=1)).tanh()
            outputs.append(fed)
        if cache is not None:
            cache |= {"h": list(torch.stack(h)), "c": list(torch.stack(c)), "fed": fed}
        return torch.stack(outputs, dim=1)


class Translator(nn.Module):
    def __init__(self, words=12, width=5, layers=2):
        super().__init__()
        self.reader, self.writer = Reader(words, width, layers), Writer(words, width, layers)

    def forward(self, words, lengths, said, in_order=True):
        memory, last = self.reader(words, lengths, in_order)
        return self.writer(said, memory, last)


def translation(lengths):
    torch.manual_seed(0)
    model = Translator().double()
    words = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in zip(words, lengths, strict=True):
        row[len(row) - length :] = torch.randint(1, 12, (length,))
    return model, words, torch.tensor(lengths), torch.randint(1, 12, (len(lengths), 4))


def assert_reader(model, words, lengths, recording):
    """Each row alone, both directions, from the first layer to the last."""
    for b, length in enumerate(lengths.tolist()):
        x = model.reader.vectors(words[b, words.shape[1] - length :]).detach().unsqueeze(1)
        for layer in range(2):
            found = []
            for suffix, turn in ((f"l{layer}", ()), (f"l{layer}_reverse", (0,))):
                signals = stepped(weights_of(model.reader.lstm, suffix), x.flip(turn))
                signals = {name: signal.flip(1) if turn else signal for name, signal in signals.items()}
                assert_signals(recording[f"reader.lstm.{suffix}"], signals, [b])
                found.append(signals["hidden_state"].transpose(0, 1))
            x = torch.cat(found, dim=2)


READ = [f"reader.lstm.{suffix}" for suffix in ("l0", "l0_reverse", "l1", "l1_reverse")]
WRITTEN = [f"writer.cells.{at}" for at in range(2)]


@pytest.mark.parametrize("lengths", [[6, 4, 4, 1], [1, 6, 4, 5]], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("training", [True, False])
def test_a_packed_reader_and_a_writer_of_cells_are_one_recording(training, lengths):
    model, words, lengths, said = translation(lengths)
    in_order = bool((lengths.diff() <= 0).all())
    model.train(training)

    def run():
        model.zero_grad()
        output = model(words, lengths, said, in_order)
        output.sum().backward()
        return output, [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    _, recording = recorded(model, run)
    assert shapes(recording) == dict.fromkeys(READ, (4, 6, 5)) | dict.fromkeys(WRITTEN, (4, 4, 5))
    assert recording.coverage.recorded == {"reader.lstm": 1, "writer.cells.0": 4, "writer.cells.1": 4}
    for key in READ:
        assert recording[key].padding == "known" and recording[key].valid.sum(1).tolist() == lengths.tolist()
    assert {recording[key].padding for key in WRITTEN} == {"unknown"}
    if not training:
        assert_reader(model, words, lengths, recording)
    for at, key in enumerate(WRITTEN):
        x = torch.stack([read for layer, read in model.writer.read[-8:] if layer == at])
        start = recording[key].initial_hidden_state, recording[key].initial_cell_state
        assert start[0].any() and start[1].any()
        assert_signals(recording[key], stepped(weights_of(model.writer.cells[at]), x, start))


def test_writing_word_by_word_joins_to_the_same_as_writing_at_once():
    model, words, lengths, said = translation([6, 4, 4, 1])
    model.eval()

    def at_once():
        with torch.no_grad():
            return model(words, lengths, said)

    def word_by_word():
        with torch.no_grad():
            memory, last = model.reader(words, lengths, True)
            cache = {}
            return [model.writer(said[:, : at + 1], memory, last, cache) for at in range(4)]

    outputs, pieces = recorded(model, word_by_word)
    output, whole = recorded(model, at_once)
    close(torch.cat(outputs, dim=1), output)
    assert shapes(pieces) == shapes(whole)
    for key in whole:
        for name, signal in whole[key].signals.items():
            close(pieces[key].signals[name], signal)
    assert [call.continues for call in pieces.calls["writer.cells.1"]] == [False, True, True, True]


class Pyramid(nn.Module):
    """Packed layers, each on every second step of what the one below has left."""

    def __init__(self, kind, width=5):
        super().__init__()
        layer = partial(getattr(nn, kind), batch_first=True, bidirectional=True, dtype=torch.float64)
        self.layers = nn.ModuleDict({f"level{at}": layer(4 if at == 0 else width, width) for at in range(3)})
        self.merge = nn.ModuleList(nn.Linear(2 * width, width, dtype=torch.float64) for _ in range(3))
        self.read = []

    def forward(self, x, lengths):
        for layer, merge in zip(self.layers.values(), self.merge, strict=True):
            self.read.append((x.detach(), lengths.tolist()))
            output, lengths = pad_packed_sequence(layer(pack_padded_sequence(x, lengths, batch_first=True))[0], batch_first=True)
            x, lengths = merge(output[:, ::2]).tanh(), (lengths + 1) // 2
        return x, lengths


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_each_level_of_a_pyramid_has_lengths_of_its_own(kind):
    torch.manual_seed(0)
    model, x = Pyramid(kind), torch.randn(3, 11, 4, dtype=torch.float64)
    (_, left), recording = recorded(model, lambda: model(x, torch.tensor([11, 6, 1])))
    keys = [f"layers.level{at}.{suffix}" for at in range(3) for suffix in ("l0", "l0_reverse")]
    times = [11, 11, 6, 6, 3, 3]
    assert shapes(recording) == {key: (3, time, 5) for key, time in zip(keys, times, strict=True)} and left.tolist() == [2, 1, 1]
    for at, (read, lengths) in enumerate(model.read[-3:]):
        for b, length in enumerate(lengths):
            for key, turn in zip(keys[2 * at : 2 * at + 2], ((), (0,)), strict=True):
                assert recording[key].valid.sum(1).tolist() == lengths and recording[key].padding == "known"
                row = read[b, :length].unsqueeze(1).flip(turn)
                signals = stepped(weights_of(model.layers[f"level{at}"], key.split(".")[-1]), row, kind=kind)
                assert_signals(recording[key], {name: signal.flip(1) if turn else signal for name, signal in signals.items()}, [b])


class Year(nn.Module):
    """A dictionary of a daily series and of constants goes in, a dictionary comes out."""

    def __init__(self):
        super().__init__()
        self.lstm, self.drop, self.head = nn.LSTM(5, 8), nn.Dropout(0.4), nn.Linear(8, 1)

    def forward(self, data):
        daily, constant = data["daily"].transpose(0, 1), data["constant"]
        hidden, (h, c) = self.lstm(input=torch.cat([daily, constant.expand(len(daily), -1, -1)], dim=2))
        return {"flow": self.head(self.drop(hidden)).transpose(0, 1), "h": h, "c": c}


@pytest.mark.parametrize("training", [True, False])
def test_a_year_of_a_model_with_dictionaries(training):
    torch.manual_seed(0)
    model = Year().double().train(training)
    nn.init.constant_(model.lstm.bias_hh_l0[8:16], 3.0)
    data = {"daily": torch.randn(3, 365, 3, dtype=torch.float64), "constant": torch.randn(3, 2, dtype=torch.float64)}
    returned, recording = recorded(model, lambda: list(model(data).values()))
    assert shapes(recording) == {"lstm.l0": (3, 365, 8)}
    x = torch.cat([data["daily"], data["constant"].unsqueeze(1).expand(-1, 365, -1)], dim=2).transpose(0, 1)
    signals = stepped(weights_of(model.lstm, "l0"), x)
    assert_signals(recording["lstm.l0"], signals)
    close(recording["lstm.l0"].cell_state[:, -1], returned[2][0])
    assert torch.equal(recording["lstm.l0"].hidden_state[:, -1], returned[1][0])


class Feeling(nn.Module):
    """The last hidden state of a sentence says how it is meant; the state stays on the model."""

    def __init__(self):
        super().__init__()
        self.vectors, self.lstm, self.says = nn.Embedding(20, 4), nn.LSTM(4, 6), nn.Linear(6, 2)

    def forward(self, batch):
        zeros = self.says.weight.new_zeros(1, batch["text"].shape[1], 6)
        hidden, self.state = self.lstm(self.vectors(batch["text"]), (zeros, zeros))
        return self.says(hidden[-1])


def test_sentences_one_at_a_time_are_padded_rows():
    torch.manual_seed(0)
    model, sentences = Feeling().double(), [torch.randint(20, (length, 1)) for length in (3, 7, 5)]
    _, recording = recorded(model, lambda: [model({"text": sentence}) for sentence in sentences])
    assert shapes(recording) == {"lstm.l0": (3, 7, 6)} and recording["lstm.l0"].valid.sum(1).tolist() == [3, 7, 5]
    for b, sentence in enumerate(sentences):
        assert_signals(recording["lstm.l0"], stepped(weights_of(model.lstm, "l0"), model.vectors(sentence).detach()), [b])


def test_a_batch_of_sentences_has_the_lengths_that_its_caller_knows():
    torch.manual_seed(0)
    model, batch = Feeling().double(), {"text": torch.randint(20, (7, 3))}
    with record(model, lengths=[3, 7, 5]) as recording:
        model(batch)
    assert recording["lstm.l0"].padding == "known" and recording["lstm.l0"].valid.sum(1).tolist() == [3, 7, 5]
    assert_signals(recording["lstm.l0"], stepped(weights_of(model.lstm, "l0"), model.vectors(batch["text"]).detach()))
