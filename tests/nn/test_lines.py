"""Many places of a line at once, against the readable equations at each place of each line by itself."""

import pytest
import torch
from cases import FORMS, close

from lstm_explain.nn.equations import Form, Weights, unroll
from lstm_explain.nn.kernels.sequence import Lines
from lstm_explain.nn.lines import run_lines

STEPS, LINES, UNITS, FEATURES = 4, 3, 5, 2
PLACES = torch.tensor([0.1, 0.5, 0.9, 1.3], dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weights_for(form, projects):
    state, gates = 2 if projects else UNITS, 4 * UNITS
    rows = len(form.peephole_rows)
    shapes = [(gates, FEATURES), (gates, state), (gates,), (gates,)]
    shapes += [{"full": (rows * UNITS, UNITS), "diagonal": (rows, UNITS), None: None}[form.peephole], (state, UNITS) if projects else None]
    return Weights(*(None if shape is None else normal(*shape, seed=at) for at, shape in enumerate(shapes)))


@pytest.mark.parametrize("lengths", [None, (4, 2, 3)])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("projects", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_places_of_lines_are_what_each_is_alone(form, projects, reverse, lengths, backend):
    form = Form(*form)
    W = weights_for(form, projects)
    state = len(W.weight_hh.T)
    x, far = normal(STEPS, LINES, FEATURES, seed=10), normal(STEPS, LINES, FEATURES, seed=11)
    h0, c0 = normal(len(PLACES) * LINES, state, seed=12), normal(len(PLACES) * LINES, UNITS, seed=13)
    slopes = normal(STEPS, len(PLACES), LINES, state, seed=14), normal(len(PLACES) * LINES, state, seed=15), normal(len(c0), UNITS, seed=16)

    # Alone, in the letters of the equations; the gradient is that of the line's start, so it adds up over its places.
    start = (x @ W.weight_ih.T + W.bias_ih + W.bias_hh).requires_grad_()
    step = far @ W.weight_ih.T
    as_they_are = W._replace(weight_ih=torch.eye(4 * UNITS, dtype=torch.float64), bias_ih=None, bias_hh=None)
    h, c = h0.clone().requires_grad_(), c0.clone().requires_grad_()
    alone, total = {}, 0.0
    for p, place in enumerate(PLACES):
        for line in range(LINES):
            time, at = STEPS if lengths is None else lengths[line], p * LINES + line
            z = start[:time, line] + place * step[:time, line]
            found = unroll(z, h[at : at + 1], c[at : at + 1], as_they_are, form, (1,) * time, reverse)
            alone[p, line] = found
            total = (
                total + (found[0] * slopes[0][:time, p, line]).sum() + (found[1] * slopes[1][at]).sum() + (found[2] * slopes[2][at]).sum()
            )
    expected = torch.autograd.grad(total, [start, h, c])

    # Together: the longest sequences first, as in a packed sequence.
    pairs = torch.arange(len(h0))
    by_length = pairs if lengths is None else torch.tensor(lengths).repeat(len(PLACES)).argsort(descending=True, stable=True)
    sizes = [int(sum(STEPS > t if lengths is None else lengths[pair % LINES] > t for pair in pairs.tolist())) for t in range(STEPS)]
    order = torch.cat([t * len(pairs) + by_length[:n] for t, n in enumerate(sizes)])
    leaf, h, c = start.detach().requires_grad_(), h0[by_length].requires_grad_(), c0[by_length].requires_grad_()
    of_row, places = order // len(pairs) * LINES + order % LINES, PLACES[order // LINES % len(PLACES)]
    found = run_lines(Lines(leaf.flatten(0, 1), step.flatten(0, 1), of_row, places), h, c, W, form, sizes, reverse)
    for row, cell in enumerate(order.tolist()):
        t, p, line = cell // len(pairs), cell // LINES % len(PLACES), cell % LINES
        close(found.hidden[row].detach(), alone[p, line][0][t].detach())
    for at, pair in enumerate(by_length.tolist()):
        for last, by_itself in zip(found[1:3], alone[pair // LINES, pair % LINES][1:], strict=True):
            close(last[at].detach(), by_itself[0].detach())
    together = (found.hidden * slopes[0].flatten(0, 2)[order]).sum()
    together = together + (found.last_h * slopes[1][by_length]).sum() + (found.last_c * slopes[2][by_length]).sum()
    by_start, by_h, by_c = torch.autograd.grad(together, [leaf, h, c])
    close(by_start, expected[0])
    close(by_h, expected[1][by_length])
    close(by_c, expected[2][by_length])


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_have_sequences_of_the_same_line(threads):
    steps, lines, places, units = 20, 3, 8, 32
    pairs, weights = lines * places, Weights(normal(4 * units, FEATURES), normal(4 * units, units, seed=1) / units)
    of_row = torch.arange(steps * lines).view(steps, 1, lines).expand(-1, places, -1).flatten()
    place = torch.linspace(0, 1, places, dtype=torch.float64).view(1, -1, 1).expand(steps, -1, lines).flatten()
    start, step, zero = normal(steps * lines, 4 * units, seed=2), normal(steps * lines, 4 * units, seed=3), normal(pairs, units, seed=4)
    found = []
    for count in (1, threads):
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(count)
            leaf = start.clone().requires_grad_()
            ran = run_lines(Lines(leaf, step, of_row, place), zero, zero, weights, Form(None), (pairs,) * steps, False)
            found.append((ran.hidden.detach(), torch.autograd.grad(ran.hidden.pow(2).sum(), leaf)[0]))
        finally:
            torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        close(one, other)
