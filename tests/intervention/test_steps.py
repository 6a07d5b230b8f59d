"""Which steps of which sequences are changed."""

import pytest
import torch
from cases import Case, call_of
from recordings import layer_of, of_layout
from torch import nn

import lstm_explain as lx

LENGTHS = (2, 4, 1, 3)
CHOICES = [
    (None, lambda t, n: True),
    (slice(1, None), lambda t, n: t >= 1),
    (slice(-2, None), lambda t, n: t >= n - 2),
    (slice(None, -1), lambda t, n: t < n - 1),
    (slice(None, None, 2), lambda t, n: t % 2 == 0),
    (slice(None, None, -2), lambda t, n: (n - 1 - t) % 2 == 0),
    ([0, -1], lambda t, n: t in (0, n - 1)),
    (-2, lambda t, n: t == n - 2),
    (3, lambda t, n: t == 3),
]


def changed_in(layer, call, suffix, lengths=None, said=None, **options):
    with lx.record(layer, lengths=lengths) as recording, lx.intervene(layer, suffix, feedback=True, lengths=said, **options):
        layer(*call)
    one = recording[suffix]
    assert bool((one.signals["hidden_state"][one.changed["hidden_state"]] == 0.25).all())
    return one.changed["hidden_state"]


@pytest.mark.parametrize(("steps", "meant"), CHOICES, ids=lambda one: str(one) if not callable(one) else "")
@pytest.mark.parametrize("suffix", ["l0", "l0_reverse"])
@pytest.mark.parametrize("padded", [False, True])
def test_steps_count_from_both_ends_of_each_sequence(steps, meant, suffix, padded):
    case = of_layout("packed_unsorted", bidirectional=True)
    layer, call, said = layer_of("torch", case), call_of(case), None
    if padded:
        layer.batch_first, said = True, LENGTHS
        call = (torch.randn(4, 4, 2, dtype=torch.float64), None)
    found = changed_in(layer, call, suffix, said, said, steps=steps, hidden_state=0.25, units=[1])
    expected = torch.tensor([[meant(t, n) and t < n for t in range(4)] for n in LENGTHS])
    assert torch.equal(found[:, :, 1], expected) and not found[:, :, [0, 2]].any()


def test_a_mask_of_steps_and_one_of_units_meet():
    layer, x = layer_of("gru", of_layout("batch_first")), torch.randn(3, 4, 2, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    when, which = torch.rand(3, 4, generator=generator) < 0.5, torch.rand(3, 3, generator=generator) < 0.5
    found = changed_in(layer, (x,), "l0", steps=when.numpy(), units=which, hidden_state=0.25)
    assert torch.equal(found, when[:, :, None] & which[:, None])


def test_a_mask_goes_on_from_call_to_call():
    layer, x = layer_of("torch", of_layout("batch_first")), torch.randn(3, 6, 2, dtype=torch.float64)
    when = torch.rand(3, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    with torch.no_grad(), lx.intervene(layer, "l0", steps=when, cell_state=0.25, feedback=True):
        whole, _ = layer(x)
    with torch.no_grad(), lx.intervene(layer, "l0", steps=when, cell_state=0.25, feedback=True):
        state, parts = None, []
        for chunk in x.split([2, 1, 3], dim=1):
            part, state = layer(chunk, state)
            parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-12)
    with pytest.raises(lx.InputError, match=r"needed steps of l0 as a mask \(3, 2\), got \(3, 6\)"):
        with lx.intervene(layer, "l0", steps=when, cell_state=0.25, feedback=True):
            layer(x[:, :2])


def test_rows_of_one_pass_are_like_passes_of_their_own():
    layer, x = layer_of("torch", of_layout("batch_first")), torch.randn(2, 6, 2, dtype=torch.float64)
    with torch.no_grad():
        apart = []
        for unit in range(3):
            with lx.intervene(layer, "l0", units=[unit], hidden_state=0.0, cell_state=0.0, feedback=True):
                apart.append(layer(x)[0])
        which = torch.eye(3, dtype=torch.bool).repeat_interleave(2, dim=0)
        with lx.intervene(layer, "l0", units=which, hidden_state=0.0, cell_state=0.0, feedback=True):
            together, _ = layer(x.repeat(3, 1, 1))
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=1e-12)


class TwoLoops(nn.Module):
    """Two passes of one cell over a sequence: the second begins anew."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(2, 3, dtype=torch.float64)

    def forward(self, x):
        found = []
        for _ in range(2):
            h = None
            for step in x.unbind(1):
                h = self.cell(step, h)
            found.append(h)
        return found


def test_a_cells_steps_are_counted_in_each_pass_and_anew_without_a_state():
    model, x = TwoLoops(), torch.randn(2, 4, 2, dtype=torch.float64)
    with lx.record(model) as recording, lx.intervene(model, "cell", steps=[3], hidden_state=0.25, feedback=True):
        for _ in range(2):
            found = model(x)
            assert all((h == 0.25).all() for h in found)
    assert recording["cell"].changed["hidden_state"].any(2).sum(0).tolist() == [0, 0, 0, 8]


def test_steps_from_the_end_of_a_loop_need_lengths():
    model, x = TwoLoops(), torch.randn(2, 4, 2, dtype=torch.float64)
    with pytest.raises(lx.InputError, match="give lengths="), lx.intervene(model, "cell", steps=-1, hidden_state=0.25, feedback=True):
        model(x)
    with lx.intervene(model, "cell", steps=-1, lengths=[2, 4], hidden_state=0.25, feedback=True), lx.record(model) as recording:
        model(x)
    assert recording["cell"].changed["hidden_state"].any(2).tolist() == [[False, True, False, False], [False, False, False, True]] * 2


def test_padding_is_never_changed():
    layer, x = layer_of("torch", Case(layout="batch_first", bidirectional=True)), torch.randn(3, 4, 2, dtype=torch.float64)
    found = changed_in(layer, (x,), "l0_reverse", None, [4, 2, 1], hidden_state=0.25)
    assert found.any(2).sum(1).tolist() == [4, 2, 1]
