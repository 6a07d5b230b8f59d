"""A stack of layers run by the readable equations on autograd's graph, while its caller gets its own values bit for bit."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lstm_explain.nn.layers import suffixes, weights_of
from lstm_explain.nn.layout import lay_out
from lstm_explain.recording.edits import Slot
from lstm_explain.recording.opened import Forward, Opened, in_one_dtype, input_and_state, instead, not_checkpointed, reached, rows_of
from lstm_explain.recording.stack import by_name, draws, initial_states, random_state, run_stack
from lstm_explain.recording.stand_in import Opener


def on_graph(opener: Opener) -> Opener:
    """An opener of layers that also says where in the graph every signal is."""

    def opened_on_graph(module: Any, original: Forward, *args: Any, **kwargs: Any) -> tuple[Any, Opened]:
        if not torch.is_grad_enabled():
            return opener(module, original, *args, **kwargs)
        not_checkpointed("grad=True")
        input, hx = input_and_state(original, args, kwargs)
        in_one_dtype(rows_of(input), "grad=True")
        state = torch.get_rng_state() if draws(module) else None
        returned, opened = opener(module, original, *args, **kwargs)
        with random_state(state):
            nodes, output, last = _walked(module, opened, input, hx)

        def with_nodes(opened: Opened) -> Opened:
            layers = [layer._replace(nodes=steps) for layer, steps in zip(opened.layers, nodes, strict=True)]
            again = opened.again
            return opened._replace(layers=layers, again=None if again is None else lambda: with_nodes(again()))

        return _instead(returned, opened, output, last), with_nodes(opened)

    return opened_on_graph


def _walked(module: Any, opened: Opened, input: Any, hx: Any) -> tuple[list[Sequence[Mapping[str, Tensor]]], Tensor, dict[str, Tensor]]:
    """All layers by the readable equations: their steps, the top rows, and the last states ``(layers * directions, batch, unit)``."""
    rows, layout = lay_out(input, input_size=module.input_size, batch_first=module.batch_first, dtype=None)
    rows = reached(rows)
    initial, names = initial_states(module, opened.kind, layout, hx, rows), suffixes(module)
    states = {suffix: by_name([state[at] for state in initial]) for at, suffix in enumerate(names)}
    weights = {suffix: weights_of(module, suffix) for suffix in names}
    slots = dict.fromkeys(names, Slot((), layout, rows.device))
    ran, rows = run_stack(module, opened.kind, opened.form, layout, rows, states, weights, slots, keep=True)
    nodes = [one.walked.steps for one in ran if one.walked is not None]
    return nodes, rows, {name: torch.stack([one.last[name] for one in ran]) for name in ran[0].last}


def _instead(returned: Any, opened: Opened, rows: Tensor, last: Mapping[str, Tensor]) -> Any:
    """What the module returned, its values bit for bit, hanging on our graph."""
    layout = opened.layout
    output, states = returned
    differentiable = layout.output(rows)
    if isinstance(output, PackedSequence):
        output = output._replace(data=instead(output.data, rows_of(differentiable)))
    else:
        output = instead(output, rows_of(differentiable))
    ours = [layout.state_out(state) for state in last.values()]
    if isinstance(states, Tensor):
        return output, instead(states, ours[0])
    return output, tuple(instead(state, our) for state, our in zip(states, ours, strict=True))
