"""A whole sequence of a GRU or of a plain RNN in one direction, forward, with its gates, by the compiled kernels.

For recordings that compute a layer's output themselves; gradients are PyTorch's business.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from lstm_explain.nn.equations import GRUStep, RNNStep, Weights
from lstm_explain.nn.kernels import native
from lstm_explain.nn.kernels.native.layer import Layer, address, entries, in_rows
from lstm_explain.nn.kernels.native.memory import empty

_KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")


class _Forward(ctypes.Structure):
    _fields_ = [
        ("form", Layer),
        ("x", ctypes.c_void_p),
        ("x_row", ctypes.c_long),
        *((name, ctypes.c_void_p) for name in ("h0", "weight_ih", "weight_hh", "bias", "recurrent_bias")),
        *((name, ctypes.c_void_p) for name in ("gates", "hidden", "kept_hidden", "last_h", "room")),
    ]


def forward(
    kind: str, x: Tensor, h0: Tensor, weights: Weights, sizes: Sequence[int], reverse: bool
) -> tuple[Tensor, Tensor, GRUStep | RNNStep]:
    """Run a sequence.

    Parameters
    ----------
    kind : {"gru", "rnn_tanh", "rnn_relu"}
    x : Tensor ``(rows, features)``
    h0 : Tensor ``(batch, units)``
    weights : Weights
        Without peepholes and projection.
    sizes, reverse
        As in `lstm_explain.nn.equations.walk`.

    Returns
    -------
    The hidden states ``(rows, units)``, the last ones ``(batch, units)``, and the signals ``(rows, units)``, which nobody else writes into.
    """
    W_x, W_h = weights.weight_ih.contiguous(), weights.weight_hh.contiguous()
    x, h0 = in_rows(x), h0.contiguous()
    rows, H = len(x), h0.shape[1]
    bias, recurrent_bias = _biases(kind, weights.bias_ih, weights.bias_hh, H)
    gates = empty(x, rows, 3, H) if kind == "gru" else None
    hidden, kept, last_h = empty(x, rows, H), empty(x, rows, H), torch.empty_like(h0)
    layer = Layer(native.layout(sizes, H, reverse), x.shape[1], H, _KINDS.index(kind))
    is_double, threads = x.dtype == torch.float64, torch.get_num_threads()
    room_for, run = entries("plain_forward")
    room = torch.empty(room_for(ctypes.byref(layer), is_double, threads), dtype=torch.uint8)
    tensors = (h0, W_x, W_h, bias, recurrent_bias, gates, hidden, kept, last_h, room)
    run(ctypes.byref(_Forward(layer, x.data_ptr(), x.stride(0), *map(address, tensors))), is_double, threads, False)
    return hidden, last_h, RNNStep(kept) if gates is None else GRUStep(gates[:, 0], gates[:, 1], gates[:, 2], kept)


def _biases(kind: str, of_input: Tensor | None, of_state: Tensor | None, units: int) -> tuple[Tensor | None, Tensor | None]:
    """What pre-activations start from; of a GRU's candidate without what the reset gate stands before, which is the second."""
    if of_input is None or of_state is None:
        return None, None
    if kind != "gru":
        return of_input + of_state, None
    gates, candidate = of_state.split([2 * units, units])
    return of_input + torch.cat([gates, torch.zeros_like(candidate)]), candidate.contiguous()
