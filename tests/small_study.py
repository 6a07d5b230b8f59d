"""Studies that take no time, and studies that go wrong, for ``--study tests/small_study.py:NAME``."""

import numpy as np
import torch
from torch import nn

import lstm_explain as lx

HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>\"'&\u2028"


class Reader(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.embedding = nn.Embedding(9, 3)
        self.lstm = layer

    def forward(self, symbols):
        return self.lstm(self.embedding(symbols))[0]


def make(seed=0, layer=None, **changes):
    torch.manual_seed(seed)
    symbols = torch.randint(9, (8, 40))
    text = [[f"{n}" for n in row] for row in symbols.tolist()]
    text[5][3:5] = [HOSTILE, "\n"]
    given = {
        "lengths": [40, 33, 40, 12, 40, 40, 25, 40],
        "labels": {"even": symbols.numpy() % 2 == 0, "sum": symbols.numpy().cumsum(1).astype(float), "third": symbols.numpy() % 3},
        "places": [lx.Place(f"a step {HOSTILE}", 5, (20, 3))],
        "groups": [f"file {n // 2} {HOSTILE}" for n in range(8)],
        "tokens": text,
        "loss": lambda output, rows: output.square().sum(-1),
        "name": "small",
        "about": {"what": f"a small reader {HOSTILE}"},
    }
    if layer is None:
        layer = lx.PeepholeLSTM(3, 5, 2, batch_first=True)
        for name, parameter in layer.named_parameters():
            if name.startswith("weight_ch"):
                nn.init.normal_(parameter)
    return lx.Study(Reader(layer), symbols, **(given | changes))


def unlabelled():
    return make(labels={})


def stock():
    return make(layer=nn.LSTM(3, 5, batch_first=True, bidirectional=True))


def bare():
    return drawn(seed=0)


def drawn(seed=0):
    return lx.Study(nn.LSTM(2, 3, batch_first=True), torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(seed)))


def gru():
    return make(layer=nn.GRU(3, 5, batch_first=True, bidirectional=True))


def rnn():
    return make(layer=nn.RNN(3, 5, batch_first=True))


def no_recurrence():
    return lx.Study(nn.Linear(2, 2), torch.zeros(1, 4, 2))


def nan():
    layer = nn.LSTM(3, 5, batch_first=True)
    with torch.no_grad():
        layer.weight_hh_l0[:5] = float("nan")
    return make(layer=layer)


def nan_inputs():
    inputs = torch.zeros(2, 6, 2)
    inputs[1, 3] = float("nan")
    return lx.Study(nn.LSTM(2, 3, batch_first=True), inputs, lengths=[6, 6])


def empty():
    return lx.Study(nn.LSTM(2, 3), torch.zeros(0, 4, 2))


def wrong_size():
    return lx.Study(nn.LSTM(2, 3, batch_first=True), torch.zeros(1, 4, 5))


def peephole_wrong_size():
    return lx.Study(lx.PeepholeLSTM(2, 3, batch_first=True), torch.zeros(1, 4, 5))


def peephole_wrong_dtype():
    return lx.Study(lx.PeepholeLSTM(2, 3, batch_first=True), torch.zeros(1, 4, 2, dtype=torch.float64))


def raises():
    raise KeyError("the data set isn't here")


def not_a_study():
    return np.zeros(3)


not_callable = 3


def constant_label():
    return make(labels={"never": np.zeros((8, 40), dtype=bool)})


def one_group():
    return make(groups=["all"] * 8)


def rare_label():
    once = np.zeros((8, 40), dtype=bool)
    once[0, 3] = True
    return make(labels={"even": make().labels["even"], "once": once})


def spelled():
    """Claims about a network whose memory is known, one right and one wrong, over text that it predicts."""
    return _spelled()


def secret():
    """The same, with a token that is in no other text."""
    return _spelled("zyzzyva")


def secret_series():
    """Numbers of which one is in no other result."""
    drawn = torch.randn(8, 12, 2, generator=torch.Generator().manual_seed(0))
    drawn[:, 3:5] = 7.1234567
    return lx.Study(
        nn.LSTM(2, 3, batch_first=True),
        drawn,
        labels={"high": drawn[..., 0].numpy() > 0.3},
        target=(-1, 2),
        loss=lambda output, rows: (output[0][..., 0] - drawn[rows, :, 0]).square(),
    )


def _spelled(a="a"):
    from speller import study

    symbols = study(turned=20).inputs
    tokens = (a, "b", ".")
    return study(
        turned=20,
        tokens=[[tokens[symbol] for symbol in row] for row in symbols.tolist()],
        next_tokens=tokens,
        labels={"was_b": np.repeat(symbols[:, ::2].numpy(), 2, axis=1) == 1},
        groups=[n % 10 for n in range(40)],
        claims=[lx.Claim("lstm.l0", 0, "was_b"), lx.Claim("lstm.l0", 3, "was_b")],
        places=[lx.Place(f"a letter, {a}", 1, (6, 0))],
        name="speller",
        about={"what": "a speller"},
    )


def target():
    return make(places=[], target=(-1, 2), tokens=None)


def detached():
    study = make()
    study.model.lstm.register_forward_hook(lambda module, args, returned: (returned[0].detach(), returned[1]))
    return study


def bare_parameters():
    study = make()
    study.model.scale = nn.Parameter(torch.ones(1))
    return lx.Study(study.model, study.inputs, labels={"even": study.labels["even"]}, groups=study.groups)


def slow():
    import time

    study = make()

    class Slow(Reader):
        def forward(self, symbols):
            time.sleep(60)
            return super().forward(symbols)

    return lx.Study(Slow(study.model.lstm), study.inputs)


def ragged():
    return make(labels={"even": [[0] * n for n in [40, 33, 40, 12, 40, 40, 25, 40]]})


def leaves():
    raise SystemExit("bye")


def no_loss():
    return make(loss=lambda output, rows: output.logits)


def short_loss():
    return make(loss=lambda output, rows: output[:, :-1].square().sum(-1))


def no_tensor_of_losses():
    return make(loss=lambda output, rows: (output.square().sum(-1),))


def no_output():
    return make(output=lambda returned: 3)


def wrong_target():
    return make(target="last")


def wrong_next_tokens():
    return make(next_tokens=["a", "b"])


def one_sequence():
    study = make()
    labels = {name: label[:1] for name, label in study.labels.items()}
    return lx.Study(study.model, study.inputs[:1], labels=labels, tokens=study.tokens[:1], loss=study.loss, name="one")
