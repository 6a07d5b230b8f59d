"""`PeepholeLSTM` and `PeepholeLSTMCell`: drop-in for `torch.nn.LSTM` and `torch.nn.LSTMCell`, with peepholes."""

import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lstm_explain.errors import InputError
from lstm_explain.nn.equations import Form, Peephole, Weights, Wiring, step
from lstm_explain.nn.layers import run_layers, suffixes

_PEEPHOLES = ("full", "diagonal", None)
_WIRINGS = ("previous", "graves")


def _form(peephole: Peephole | None, wiring: Wiring) -> Form:
    if peephole not in _PEEPHOLES:
        raise InputError(f'needed peephole="full", "diagonal" or None, got {peephole!r}')
    if wiring not in _WIRINGS:
        raise InputError(f'needed wiring="previous" or "graves", got {wiring!r}')
    return Form(peephole, wiring)


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise InputError(f"needed {name} as a positive integer, got {size!r}")


def _peephole_shape(form: Form, hidden_size: int) -> tuple[int, int]:
    rows = len(form.peephole_rows)
    return (rows * hidden_size, hidden_size) if form.peephole == "full" else (rows, hidden_size)


def _initialise(name: str, parameter: Tensor, hidden_size: int, form: Form) -> None:
    """PyTorch's rule, uniform in ±1/√hidden, with two exceptions.

    The forget gate's bias starts at 1, so that the cell remembers before it has learned anything (Gers, Schmidhuber &
    Cummins 2000; Jozefowicz, Zaremba & Sutskever 2015). Diagonal peepholes start uniform in ±0.1 (Gers, Schraudolph &
    Schmidhuber 2002). Full ones start at zero, so that training starts from the plain LSTM: the cell state is unbounded, and
    with PyTorch's rule for them it runs away by itself (192 units, 128 steps: mean |c| 2.9 in place of 0.2).
    """
    bound = 1 / math.sqrt(hidden_size)
    if name.startswith("weight_ch"):
        bound = 0.1 if form.peephole == "diagonal" else 0.0
    nn.init.uniform_(parameter, -bound, bound)
    forget = slice(hidden_size, 2 * hidden_size)
    with torch.no_grad():
        if name.startswith("bias_ih"):
            parameter[forget] = 1.0
        elif name.startswith("bias_hh"):
            parameter[forget] = 0.0


class PeepholeLSTM(nn.Module):
    r"""A multi-layer LSTM in which every gate and the candidate see the previous cell state.

    .. math::
        i_t &= σ(W_{xi} x_t + W_{hi} h_{t-1} + W_{ci} c_{t-1} + b_i) \\
        f_t &= σ(W_{xf} x_t + W_{hf} h_{t-1} + W_{cf} c_{t-1} + b_f) \\
        g_t &= \tanh(W_{xg} x_t + W_{hg} h_{t-1} + W_{cg} c_{t-1} + b_g) \\
        o_t &= σ(W_{xo} x_t + W_{ho} h_{t-1} + W_{co} c_{t-1} + b_o) \\
        c_t &= f_t ⊙ c_{t-1} + i_t ⊙ g_t \\
        h_t &= o_t ⊙ \tanh(c_t)

    A drop-in for `torch.nn.LSTM`: the same arguments, inputs, outputs and parameter names. Under autocast it computes in the
    dtype of its parameters.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        As in `torch.nn.LSTM`. With `proj_size` the cell keeps `hidden_size` units, and peepholes see the cell.
    peephole : {"full", "diagonal", None}
        Whole matrices, one weight for each unit, or none: then this is `torch.nn.LSTM`, to rounding.
    wiring : {"previous", "graves"}
        ``"previous"``: every gate and the candidate see c_{t-1}. ``"graves"`` (Gers & Schmidhuber 2000; Graves 2013,
        eqs. 7-11): i and f see c_{t-1}, o sees the new c_t, and the candidate sees no cell.

    Attributes
    ----------
    weight_ih_l{k}, weight_hh_l{k}, bias_ih_l{k}, bias_hh_l{k}, weight_hr_l{k} : Parameter
        As in `torch.nn.LSTM`, with the suffix ``_reverse`` for the second direction; rows i, f, g, o.
    weight_ch_l{k} : Parameter
        The peepholes, cell to hidden: ``(4*hidden_size, hidden_size)`` when full, ``(4, hidden_size)`` when diagonal, rows
        i, f, g, o; with the ``graves`` wiring 3 in place of 4, rows i, f, o.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> layer = lx.PeepholeLSTM(8, 16, num_layers=2, batch_first=True)
    >>> output, (h_n, c_n) = layer(torch.zeros(4, 10, 8))
    >>> output.shape, c_n.shape
    (torch.Size([4, 10, 16]), torch.Size([2, 4, 16]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        peephole: Peephole | None = "full",
        wiring: Wiring = "previous",
    ) -> None:
        super().__init__()
        _positive(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        if not isinstance(dropout, (int, float)) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise InputError(f"needed dropout as a probability between 0 and 1, got {dropout!r}")
        if not isinstance(proj_size, int) or not 0 <= proj_size < hidden_size:
            raise InputError(f"needed proj_size as an integer from 0 to hidden_size - 1 = {hidden_size - 1}, got {proj_size!r}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self.form = _form(peephole, wiring)

        state_size = proj_size or hidden_size
        directions = 2 if bidirectional else 1
        for suffix in suffixes(self):
            features = input_size if suffix.startswith("l0") else directions * state_size
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (4 * hidden_size, features),
                "weight_hh": (4 * hidden_size, state_size),
            }
            if bias:
                shapes |= {"bias_ih": (4 * hidden_size,), "bias_hh": (4 * hidden_size,)}
            if proj_size:
                shapes["weight_hr"] = (proj_size, hidden_size)
            if peephole is not None:
                shapes["weight_ch"] = _peephole_shape(self.form, hidden_size)
            for name, shape in shapes.items():
                self.register_parameter(f"{name}_{suffix}", nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    @property
    def peephole(self) -> Peephole | None:
        """What the peepholes are: ``"full"``, ``"diagonal"`` or None."""
        return self.form.peephole

    @property
    def wiring(self) -> Wiring:
        """Which cell state they see: ``"previous"`` or ``"graves"``."""
        return self.form.wiring

    def reset_parameters(self) -> None:
        """Start afresh: uniform in ±1/√hidden as in PyTorch, forget bias 1; peepholes at zero, diagonal ones in ±0.1."""
        for name, parameter in self.named_parameters():
            _initialise(name, parameter, self.hidden_size, self.form)

    @classmethod
    def from_lstm(cls, lstm: nn.LSTM, *, peephole: Peephole | None = "full", wiring: Wiring = "previous") -> Self:
        """The same layer with peepholes at zero: same outputs, ready to train on.

        Raises
        ------
        InputError
            If `lstm` isn't a `torch.nn.LSTM`.
        """
        if not isinstance(lstm, nn.LSTM):
            raise InputError(f"needed a torch.nn.LSTM, got {type(lstm).__name__}")
        weight = next(lstm.parameters())  # weight_ih_l0 is no parameter where it is pruned or normalised
        twin = cls(
            lstm.input_size,
            lstm.hidden_size,
            lstm.num_layers,
            lstm.bias,
            lstm.batch_first,
            lstm.dropout,
            lstm.bidirectional,
            lstm.proj_size,
            device=weight.device,
            dtype=weight.dtype,
            peephole=peephole,
            wiring=wiring,
        )
        with torch.no_grad():
            for name, parameter in twin.named_parameters():
                if name.startswith("weight_ch"):
                    parameter.zero_()
                else:
                    parameter.copy_(getattr(lstm, name))
        return twin.train(lstm.training)

    def flatten_parameters(self) -> None:
        """Nothing to do; here because code written for `torch.nn.LSTM` calls it."""

    def forward(
        self, input: Tensor | PackedSequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]:
        """Run the layers over whole sequences.

        Parameters
        ----------
        input : Tensor or PackedSequence
            ``(time, batch, input_size)``, ``(batch, time, input_size)`` with `batch_first`, or ``(time, input_size)``.
        hx : (h_0, c_0), optional
            ``(num_layers * directions, batch, state)`` and ``(num_layers * directions, batch, hidden_size)``; zero if left out.

        Returns
        -------
        output, (h_n, c_n)
            The top layer's hidden states, laid out as the input; the last states, shaped as `hx`.

        Raises
        ------
        InputError
            If the input or the initial state doesn't fit.
        """
        run = run_layers(self, self.form, input, hx, keep=False)
        return run.output, (run.h_n, run.c_n)

    def extra_repr(self) -> str:
        """What `repr` shows of it."""
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False, "proj_size": 0}
        options = [f"{name}={getattr(self, name)}" for name, default in defaults.items() if getattr(self, name) != default]
        options += [f"peephole={self.peephole!r}", f"wiring={self.wiring!r}"]
        return ", ".join([str(self.input_size), str(self.hidden_size), *options])


class PeepholeLSTMCell(nn.Module):
    """One step of `PeepholeLSTM`, to be called in a loop: a drop-in for `torch.nn.LSTMCell`.

    Parameters
    ----------
    input_size, hidden_size, bias, device, dtype
        As in `torch.nn.LSTMCell`.
    peephole, wiring
        As in `PeepholeLSTM`.

    Attributes
    ----------
    weight_ih, weight_hh, bias_ih, bias_hh, weight_ch : Parameter
        Shaped and ordered as in `PeepholeLSTM`.
    """

    bias_ih: nn.Parameter | None
    bias_hh: nn.Parameter | None
    weight_ch: nn.Parameter | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        peephole: Peephole | None = "full",
        wiring: Wiring = "previous",
    ) -> None:
        super().__init__()
        _positive(input_size=input_size, hidden_size=hidden_size)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.form = _form(peephole, wiring)

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.weight_ih = empty(4 * hidden_size, input_size)
        self.weight_hh = empty(4 * hidden_size, hidden_size)
        self.bias_ih = empty(4 * hidden_size) if bias else None
        self.bias_hh = empty(4 * hidden_size) if bias else None
        self.weight_ch = None if peephole is None else empty(*_peephole_shape(self.form, hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As `PeepholeLSTM.reset_parameters`."""
        for name, parameter in self.named_parameters():
            _initialise(name, parameter, self.hidden_size, self.form)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """One step.

        Parameters
        ----------
        input : Tensor ``(batch, input_size)`` or ``(input_size,)``
        hx : (h, c), optional
            Each ``(batch, hidden_size)`` or ``(hidden_size,)``; zero if left out.

        Returns
        -------
        h, c : Tensor, shaped as `hx`

        Raises
        ------
        InputError
            If the input or the state doesn't fit.
        """
        if not isinstance(input, Tensor):
            raise InputError(f"needed an input as a tensor, got {type(input).__name__}")
        if input.dim() not in (1, 2) or input.shape[-1] != self.input_size:
            raise InputError(f"needed an input of shape (batch, {self.input_size}) or ({self.input_size},), got {tuple(input.shape)}")
        if input.dtype != self.weight_ih.dtype:
            raise InputError(f"needed an input of the weights' dtype {self.weight_ih.dtype}, got {input.dtype}: convert one with .to()")
        shape = (*input.shape[:-1], self.hidden_size)
        if hx is not None and not (isinstance(hx, (tuple, list)) and len(hx) == 2 and all(isinstance(s, Tensor) for s in hx)):
            raise InputError(f"needed the state as a pair of tensors (h, c), got {type(hx).__name__}")
        h, c = (input.new_zeros(shape), input.new_zeros(shape)) if hx is None else hx
        for name, state in (("h", h), ("c", c)):
            if state.dtype != input.dtype:
                raise InputError(f"needed {name} of the weights' dtype {input.dtype}, got {state.dtype}: convert it with .to()")
            if state.shape != shape:
                raise InputError(f"needed {name} of shape {shape}, got {tuple(state.shape)}")
        weights = Weights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, self.weight_ch)
        now = step(input, h, c, weights, self.form)
        return now.hidden_state, now.cell_state

    def extra_repr(self) -> str:
        """What `repr` shows of it."""
        bias = "" if self.bias else ", bias=False"
        return f"{self.input_size}, {self.hidden_size}{bias}, peephole={self.form.peephole!r}, wiring={self.form.wiring!r}"
