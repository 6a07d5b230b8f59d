"""A subclass whose weights are others than they seem is refused by the certificate, and never recorded wrongly."""

import math

import pytest
import torch
from cases import randomise
from kinds import assert_is, by_hand, inputs, made, weights_of
from torch import _VF, nn

from lstm_explain.errors import CertificateError
from lstm_explain.recording.runner import record


def scaled_layer(base):
    class Scaled(base):
        """As icefall's ScaledLSTM: the kernel is called with all weights times exp(scale)."""

        only = ""

        def __init__(self, *args, scale, **kwargs):
            super().__init__(*args, **kwargs)
            self.scale = scale

        def _scaled(self):
            pairs = zip(self._flat_weights_names, self._flat_weights, strict=True)
            return [weight * math.exp(self.scale) if name.startswith(self.only) else weight for name, weight in pairs]

        def forward(self, input, hx=None):
            zeros = input.new_zeros(self.num_layers, input.shape[1], self.hidden_size)
            lstm = self.mode == "LSTM"
            hx = (zeros, zeros) if lstm and hx is None else zeros if hx is None else hx
            returned = getattr(_VF, self.mode.lower())(input, hx, self._scaled(), self.bias, 1, 0.0, self.training, False, False)
            return (returned[0], tuple(returned[1:])) if lstm else returned

    return Scaled


def scaled_cell(base, name):
    class Scaled(base):
        def __init__(self, *args, scale, **kwargs):
            super().__init__(*args, **kwargs)
            self.scale = scale

        def forward(self, input, hx=None):
            zeros = input.new_zeros(len(input), self.hidden_size)
            hx = ((zeros, zeros) if base is nn.LSTMCell else zeros) if hx is None else hx
            weights = [getattr(self, name) * math.exp(self.scale) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            return getattr(_VF, name)(input, hx, *weights)

    return Scaled


SCALED = {
    "lstm": scaled_layer(nn.LSTM),
    "gru": scaled_layer(nn.GRU),
    "rnn": scaled_layer(nn.RNN),
    "lstm_cell": scaled_cell(nn.LSTMCell, "lstm_cell"),
    "gru_cell": scaled_cell(nn.GRUCell, "gru_cell"),
    "rnn_cell": scaled_cell(nn.RNNCell, "rnn_tanh_cell"),
}


@pytest.mark.parametrize("scale", [1.0, 0.1, math.log(1.001), -math.log(1.001)], ids=["e", "1.1", "1.001", "1/1.001"])
@pytest.mark.parametrize("grad_mode", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", SCALED)
def test_weights_that_are_scaled_inside_the_call_are_refused(kind, dtype, grad_mode, scale):
    module, x = randomise(SCALED[kind](2, 3, dtype=dtype, scale=scale)), inputs(dtype=dtype)
    model = nn.ModuleDict({"encoder": module})
    # What is known of layers of this shape, from one that is what it seems, doesn't help.
    with torch.set_grad_enabled(grad_mode), record(same := made(kind, dtype=dtype)):
        for _ in range(2):
            same(x[0] if "cell" in kind else x)
    with torch.set_grad_enabled(grad_mode), record(model) as recording:
        with pytest.raises(CertificateError, match="^encoder, call 0: .* subclass") as caught:
            module(x[0] if "cell" in kind else x)
        assert "\n" not in str(caught.value) and len(recording) == 0
    module.scale = 0.0
    with record(module) as recording:
        module(x[0] if "cell" in kind else x)
    assert recording.certificate.state == "certified"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("only", ["weight_hh", "bias_hh", "weight_ih"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_weights_of_which_some_are_scaled_are_refused_or_recorded_as_the_kernel_had_them(kind, only, dtype):
    module, x = randomise(SCALED[kind](2, 3, dtype=dtype, scale=0.1)), inputs(dtype=dtype)
    module.only = only
    with record(same := made(kind, dtype=dtype)):
        same(x)
    weights = weights_of(kind, module)
    weights[only] = weights[only] * math.exp(0.1)
    try:
        with record(module) as recording:
            module(x)
    except CertificateError:
        return
    assert_is(recording["l0"], by_hand(kind, weights, x))
