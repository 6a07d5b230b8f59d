"""A stack of layers run by the readable equations on autograd's graph, while its caller gets its own values bit for bit."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lstm_explain.nn.equations import Weights, stepper, walk
from lstm_explain.nn.layers import suffixes, weights_of
from lstm_explain.nn.layout import lay_out
from lstm_explain.recording.layers import draws, initial_states, random_state
from lstm_explain.recording.opened import Forward, Opened, in_one_dtype, input_and_state, instead, not_checkpointed, reached, rows_of
from lstm_explain.recording.stand_in import Opener


def on_graph(opener: Opener) -> Opener:
    """An opener of layers that also says where in the graph every signal is."""

    def opened_on_graph(module: Any, original: Forward, *args: Any, **kwargs: Any) -> tuple[Any, Opened]:
        if not torch.is_grad_enabled():
            return opener(module, original, *args, **kwargs)
        not_checkpointed()
        input, hx = input_and_state(original, args, kwargs)
        in_one_dtype(rows_of(input))
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


def _walked(module: Any, opened: Opened, input: Any, hx: Any) -> tuple[list[list[Mapping[str, Tensor]]], Tensor, dict[str, Tensor]]:
    """All layers by the readable equations: their steps, the top rows, and the last states ``(layers * directions, batch, unit)``."""
    rows, layout = lay_out(input, input_size=module.input_size, batch_first=module.batch_first, dtype=None)
    rows = reached(rows)
    initial = initial_states(module, opened.kind, layout, hx, rows)
    names = tuple(opened.layers[0].initial)
    directions = 2 if module.bidirectional else 1
    nodes: list[list[Mapping[str, Tensor]]] = []
    ends: list[dict[str, Tensor]] = []
    for at, suffix in enumerate(suffixes(module)):
        if at % directions == 0:
            read, tops = rows, []
            if at and draws(module):
                read = torch.dropout(read, module.dropout, True)
        by = partial(_by, stepper(opened.kind, opened.form), weights_of(module, suffix))
        states = {name: state[at] for name, state in zip(names, initial, strict=True)}
        steps, last = walk(read, states, by, layout.sizes, at % directions == 1)
        nodes.append([now._asdict() for now in steps])
        ends.append(last)
        tops.append(torch.cat([now.hidden_state for now in steps]))
        rows = torch.cat(tops, dim=1)
    return nodes, rows, {name: torch.stack([last[name] for last in ends]) for name in names}


def _by(step: Callable[..., Any], weights: Weights, x: Tensor, *states: Tensor) -> Any:
    return step(x, *states, weights)


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
