"""Recording in one pass: the compiled kernels compute a layer's output together with its gates, in place of the layer's own pass.

What the model goes on with is then exactly what was recorded; it differs from the layer's own output by rounding. A second pass over
everything would cost what the first one saved, so that some steps of each call are recomputed, others each time.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lstm_explain.errors import InputError, RecordingError
from lstm_explain.nn.equations import Form, Weights
from lstm_explain.nn.kernels import native
from lstm_explain.nn.kernels.native import plain
from lstm_explain.nn.layers import Run, run_rows, suffixes, weights_of
from lstm_explain.nn.layout import Layout, lay_out
from lstm_explain.nn.lstm import PeepholeLSTM
from lstm_explain.recording.layers import opened_run, stacked
from lstm_explain.recording.opened import Forward, Opened, OpenedLayer, Sample, rows_of
from lstm_explain.recording.sampling import SAMPLED, by_sample
from lstm_explain.recording.stack import by_name, draws, initial_states, kind_of
from lstm_explain.recording.stand_in import Opener


def fast(ordinary: Opener) -> Opener:
    """An opener that runs a layer by the compiled kernels where they can do it, and leaves it to the ordinary one where they can't.

    They can't where the class has a forward pass of its own, on other devices and dtypes than float32 and float64 on the CPU, under
    autocast and transforms, with masks between layers, and, of a GRU or RNN, where a gradient is wanted.
    """

    def open_fast(module: nn.Module, original: Forward, *args: Any, **kwargs: Any) -> tuple[Any, Opened]:
        opened = _in_one_pass(module, *args, **kwargs) if _is_its_kind(module, original) else None
        return ordinary(module, original, *args, **kwargs) if opened is None else opened

    return open_fast


def _is_its_kind(module: Any, original: Forward) -> bool:
    """Whether a layer computes what its class says, from the weights that stand under their names."""
    runs = getattr(original, "__func__", None)
    if isinstance(module, PeepholeLSTM):
        return runs is PeepholeLSTM.forward
    own = next((kind.forward for kind in (nn.LSTM, nn.GRU, nn.RNN) if isinstance(module, kind)), None)
    named = zip(module._flat_weights, module._flat_weights_names, strict=True)
    return runs is own and all(weight is getattr(module, name, None) for weight, name in named)


def _in_one_pass(module: Any, input: Any = None, hx: Any = None) -> tuple[Any, Opened] | None:
    """What a layer returns and what it computed inside, by the compiled kernels; None where they can't."""
    kind, form = kind_of(module)
    by_suffix = {suffix: weights_of(module, suffix) for suffix in suffixes(module)}
    weights = list(by_suffix.values())
    first = weights[0].weight_ih
    if draws(module) or torch.is_autocast_enabled("cpu") or torch._C._are_functorch_transforms_active():
        return None
    try:  # what doesn't fit the layer is for the layer to refuse
        rows, layout = lay_out(input, input_size=module.input_size, batch_first=module.batch_first, dtype=first.dtype)
        states = initial_states(module, kind, layout, hx, rows)
    except (InputError, RecordingError):
        return None
    tensors = [rows, *states, *(w for one in weights for w in one if w is not None)]
    if not native.serves(*tensors):
        return None
    if form is not None:
        run = run_rows(module, form, rows, layout, states, weights=lambda _, suffix: by_suffix[suffix])
        return _lstm(module, kind, form, run, hx is not None)
    if torch.is_grad_enabled() and any(one.requires_grad for one in tensors):
        return None
    with torch.no_grad():
        return _plain(module, kind, rows, layout, states[0], weights, hx is not None)


def _lstm(module: Any, kind: str, form: Form, run: Run, given: bool) -> tuple[Any, Opened]:
    """An LSTM's pass, PyTorch's or our own."""
    returned = run.output, (run.h_n, run.c_n)
    opened = opened_run(run, form, returned, given=given, carries=not module.bidirectional)
    layers = [
        _sampled(one, kind, form, layer.x.detach(), layer.weights, layer.sizes)
        for one, layer in zip(opened.layers, run.layers, strict=True)
    ]
    return returned, opened._replace(kind=kind, layers=layers, expected={}, sample=_sample(run.layers[0].x))


def _plain(
    module: Any, kind: str, rows: Tensor, layout: Layout, initial: Tensor, weights: Sequence[Weights], given: bool
) -> tuple[Any, Opened]:
    """A GRU's or plain RNN's pass."""
    names, directions = suffixes(module), 2 if module.bidirectional else 1
    layers, last, sample = [], [], _sample(rows)
    for layer in range(module.num_layers):
        tops = []
        for at in range(layer * directions, (layer + 1) * directions):
            reverse = names[at].endswith("_reverse")
            hidden, end, signals = plain.forward(kind, rows, initial[at], weights[at], layout.sizes, reverse)
            one = OpenedLayer(names[at], reverse, signals._asdict(), by_name([initial[at]]))
            layers.append(_sampled(one, kind, None, rows, weights[at], layout.sizes))
            tops.append(hidden)
            last.append(end)
        rows = torch.cat(tops, dim=1) if directions == 2 else tops[0]
    output, h_n = layout.output(rows), layout.state_out(torch.stack(last))
    opened = Opened(
        kind=kind,
        form=None,
        layout=layout,
        layers=layers,
        expected={},
        returned={"output": rows_of(output), "h_n": h_n},
        states=stacked((h_n,), layout),
        dtype=rows.dtype,
        given=given,
        carries=directions == 1,
        sample=sample,
    )
    return (output, h_n), opened


def _sample(rows: Tensor) -> Sample:
    return Sample(min(SAMPLED, len(rows)), len(rows))


def _sampled(layer: OpenedLayer, kind: str, form: Form | None, x: Tensor, weights: Weights, sizes: Sequence[int]) -> OpenedLayer:
    """A layer, with what it takes to check it."""
    return layer._replace(checked=partial(by_sample, kind, form, weights, x, layer.signals, layer.initial, sizes, layer.reverse))
