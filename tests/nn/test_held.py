"""What a layer has saved, held against its equations in bulk: as far apart as the readable step says, in every form."""

import pytest
import torch
from cases import FORMS
from hypothesis import given
from hypothesis import strategies as st
from sequences import Drawn, calls

from lstm_explain.nn.equations import Weights, step
from lstm_explain.nn.kernels import native
from lstm_explain.nn.kernels.native import layer as compiled
from lstm_explain.nn.kernels.sequence import Saved, before

pytestmark = pytest.mark.skipif(native.backend().name == "torch", reason=native.backend().why)


def saved_by(case):
    x, h0, c0, *weights = case.leaves()
    return (x, h0, c0, Weights(*weights)), compiled.forward(x, h0, c0, Weights(*weights), *case.call, keep=True).saved


def by_the_step(saved, x, h0, c0, weights, form, sizes, reverse):
    """The largest difference of any saved value to what one readable step gives."""
    h, c = (before(after, initial, sizes, reverse) for after, initial in ((saved.hidden, h0), (saved.cell, c0)))
    expected = step(x, h, c, weights, form)
    found = (*saved.gates.unbind(1), saved.cell, saved.hidden)
    return max(float((one - other).abs().max()) for one, other in zip(found, expected, strict=True))


def tampered(saved, signal, seed):
    """One value of one signal raised."""
    at = torch.Generator().manual_seed(seed)
    changed = Saved(*(tensor.clone() for tensor in saved))
    values = {"cell": changed.cell, "hidden": changed.hidden}.get(signal)
    if values is None:
        values = changed.gates[:, "ifgo".index(signal)]
    row, unit = (int(torch.randint(size, (), generator=at)) for size in values.shape)
    values[row, unit] += 0.01
    return changed


@pytest.mark.parametrize("signal", ["i", "f", "g", "o", "cell", "hidden"])
@given(case=calls(projection=0), chunk=st.sampled_from([1, 4000, compiled._CHUNK]))
def test_it_is_as_far_apart_as_the_readable_step_says(signal, case, chunk):
    given, saved = saved_by(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "_CHUNK", chunk)
        right = compiled.held(saved, *given, *case.call)
        changed = tampered(saved, signal, case.seed)
        wrong = compiled.held(changed, *given, *case.call)
    assert right.difference <= 1e-13 * max(1.0, right.scale) and not right.nonfinite
    assert wrong.difference == pytest.approx(by_the_step(changed, *given, *case.call), rel=1e-9, abs=1e-13)
    assert wrong.difference >= 0.009


@pytest.mark.parametrize("form", FORMS)
def test_several_pieces_are_as_one(form, monkeypatch):
    given, saved = saved_by(case := Drawn(form, (5,) * 40, 4, 8))
    changed = tampered(saved, "o", 3)
    whole = compiled.held(changed, *given, *case.call)
    monkeypatch.setattr(compiled, "_CHUNK", 7 * 4 * 8 * 8)
    found = compiled.held(changed, *given, *case.call)
    assert (found.scale, found.nonfinite) == (whole.scale, whole.nonfinite)
    assert found.difference == pytest.approx(whole.difference, rel=1e-12)  # products of other sizes round otherwise


def test_what_is_not_finite_is_left_to_others():
    given, saved = saved_by(case := Drawn(sizes=(3, 3), features=2, units=5))
    saved.gates[4, 2, 1] = torch.nan
    assert compiled.held(saved, *given, *case.call).nonfinite
