"""The certificate: what isn't what the layer computed is refused by name, and what is passes with room to spare."""

import dataclasses

import pytest
import torch
from cases import FORMS, LAYOUTS, LENGTHS, Case, call_of, peephole_lstm, randomise, torch_lstm
from torch import nn

from lstm_explain.errors import CertificateError, RecordingError
from lstm_explain.nn.equations import Form
from lstm_explain.nn.layers import run_layers
from lstm_explain.recording.certificate import certify
from lstm_explain.recording.layers import opened_run
from lstm_explain.recording.runner import record

FULL = Form("full", "previous")


def run_of(form=FULL, case=None, dtype=torch.float64):
    case = case or Case("packed_unsorted", (2, 4, 1), bidirectional=True, initial_state=True)
    layer = peephole_lstm(case, *form, dtype=dtype)
    with torch.no_grad():
        return run_layers(layer, Form(*form), *call_of(case, dtype))


def returned_by(run):
    return run.output, (run.h_n, run.c_n)


def certified(run, returned=None, form=FULL, trajectories=(), module="lstm", call=2):
    opened = opened_run(run, Form(*form), returned or returned_by(run), given=False, carries=False)
    return certify(module, call, opened, trajectories)


def rejected(run, returned=None, form=FULL, trajectories=()):
    with pytest.raises(CertificateError) as caught:
        certified(run, returned, form, trajectories, "encoder.lstm", 3)
    message = str(caught.value)
    assert message.startswith("encoder.lstm, call 3: ") and "\n" not in message
    assert isinstance(caught.value, RecordingError)
    return message


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
def test_what_the_layer_computed_is_certified_with_room_to_spare(form, layout):
    run = run_of(form, Case(layout, LENGTHS[layout], num_layers=2, bidirectional=True, proj_size=2))
    check = certified(run, form=form)
    assert (check.module, check.call, check.dtype, check.nonfinite) == ("lstm", 2, "float64", 0)
    assert check.output == check.h_n == check.c_n == 0.0
    assert check.worst == check.equations < check.tolerance / 10


def with_saved(run, **changes):
    """The run with the first layer's saved values changed by functions of them."""
    first = run.layers[0]
    saved = first.saved._replace(**{name: change(getattr(first.saved, name).clone()) for name, change in changes.items()})
    return run._replace(layers=[first._replace(saved=saved), *run.layers[1:]])


def swapped(one, other):
    order = [0, 1, 2, 3]
    order[one], order[other] = other, one
    return lambda gates: gates[:, order]


TAMPERED = {
    **{f"{'ifgo'[a]}_and_{'ifgo'[b]}_swapped": {"gates": swapped(a, b)} for a in range(4) for b in range(a)},
    "gates_one_step_late": {"gates": lambda gates: gates.roll(1, 0)},
    "cell_one_step_late": {"cell": lambda cell: cell.roll(1, 0)},
    "hidden_one_step_late": {"hidden": lambda hidden: hidden.roll(1, 0)},
    "hidden_before_its_tanh": {"hidden": torch.atanh},
    "one_value_off": {"gates": lambda gates: gates.index_put((torch.tensor(2), torch.tensor(1), torch.tensor(0)), gates[0, 0, 0])},
    "one_value_missing": {"gates": lambda gates: gates.index_fill(0, torch.tensor(3), torch.nan)},
}


@pytest.mark.parametrize("changes", TAMPERED.values(), ids=TAMPERED)
def test_recorded_values_that_break_the_equations_are_rejected(changes):
    assert "in equations" in rejected(with_saved(run_of(), **changes))


@pytest.mark.parametrize("layout", ["time_first", "packed"])
@pytest.mark.parametrize("changes", [c for name, c in TAMPERED.items() if not name.startswith("one_value")])
def test_recorded_values_that_break_the_equations_are_rejected_in_long_calls_as_well(changes, layout):
    lengths = (100,) * 3 if layout == "time_first" else (100, 61, 3)
    assert "in equations" in rejected(with_saved(run_of(case=Case(layout, lengths)), **changes))


@pytest.mark.parametrize("form", [FULL, Form("full", "graves"), Form("diagonal", "previous"), Form(None)])
def test_the_equations_of_another_form_are_rejected(form):
    # With as many rows as each form needs, so that only the equations differ.
    run = run_of(Form("diagonal", "graves"), Case())
    rows = torch.full((len(form.peephole_rows) * (3 if form.peephole == "full" else 1), 3), 0.5, dtype=torch.float64)
    layer = run.layers[0]._replace(weights=run.layers[0].weights._replace(weight_ch=rows))
    rejected(run._replace(layers=[layer]), form=form)


def test_trajectories_under_wrong_names_are_rejected():
    case = Case("packed_unsorted", (2, 4, 1), bidirectional=True, initial_state=True)
    layer = peephole_lstm(case, *FULL)
    with record(layer) as recording:
        layer(*call_of(case))
    true = list(recording.values())
    assert certified(run_of(), trajectories=true).worst < 1e-12
    for one, other in (("input_gate", "forget_gate"), ("output_gate", "forget_gate"), ("cell_state", "cell_candidate")):
        signals = true[1].signals | {one: true[1].signals[other], other: true[1].signals[one]}
        rejected(run_of(), trajectories=[true[0], dataclasses.replace(true[1], signals=signals)])


@pytest.mark.parametrize("which", ["output", "h_n", "c_n"])
@pytest.mark.parametrize("layout", ["batch_first", "packed_unsorted", "unbatched"])
def test_a_returned_value_that_is_not_the_recomputed_one_is_rejected_by_its_name(layout, which):
    run = run_of(case=Case(layout, LENGTHS[layout]))
    off = getattr(run, which)
    off = off._replace(data=off.data + 1e-6) if which == "output" and run.layout.packed else off + 1e-6
    changed = run._replace(**{which: off})
    assert f"in {which}," in rejected(run, returned_by(changed))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_finite_in_only_one_of_the_two_is_rejected(value):
    run = run_of(case=Case())
    output = run.output.clone()
    output[0, 0, 0] = value
    rejected(run, (output, (run.h_n, run.c_n)))


def test_another_shape_is_rejected():
    run = run_of(case=Case())
    rejected(run, (run.output[1:], (run.h_n, run.c_n)))
    rejected(run, (run.output[:, :, :1], (run.h_n, run.c_n)))


@pytest.mark.parametrize(
    ("dtype", "absolute", "relative"),
    [(torch.float64, 1e-12, 1e-12), (torch.float32, 1e-5, 1.3e-6), (torch.float16, 5e-3, 5e-3), (torch.bfloat16, 5e-2, 5e-2)],
)
def test_the_tolerance_is_that_of_the_dtype_at_the_scale_of_the_values(dtype, absolute, relative):
    run = run_of(case=Case(), dtype=dtype)
    check = certified(run)
    signals = [run.output, run.h_n, run.c_n, *(run.layers[0].saved.gates, run.layers[0].saved.cell)]
    assert check.scale == pytest.approx(max(float(signal.abs().max()) for signal in signals), rel=1e-2)
    assert check.tolerance == absolute + relative * check.scale
    near, far = 0.5 * check.tolerance, 4 * check.tolerance
    certified(run, (run.output, (run.h_n, run.c_n.double() + near)))
    rejected(run, (run.output, (run.h_n, run.c_n.double() + far)))


class OtherWeights(nn.LSTM):
    """A subclass whose forward pass uses its weights otherwise."""

    def forward(self, input, hx=None):
        output, states = super().forward(input, hx)
        return output * 1.001, states


class OtherInput(nn.LSTM):
    def forward(self, input, hx=None):
        return super().forward(input.roll(1, 0), hx)


class OtherState(nn.LSTM):
    def forward(self, input, hx=None):
        output, (h, c) = super().forward(input, hx)
        return output, (h, c + 1e-3)


class OtherShape(nn.LSTM):
    def forward(self, input, hx=None):
        output, states = super().forward(input, hx)
        return output[1:], states


def test_an_output_of_another_shape_is_refused():
    layer = randomise(OtherShape(2, 3, dtype=torch.float64))
    with pytest.raises(RecordingError, match="^needed 12 steps of 3 units from OtherShape, got "), record(layer):
        layer(call_of(Case())[0])


class ChangesItsWeights(nn.LSTM):
    def forward(self, input, hx=None):
        returned = super().forward(input, hx)
        with torch.no_grad():
            self.weight_hh_l0.mul_(0.9)
        return returned


@pytest.mark.parametrize("kind", [OtherWeights, OtherInput, OtherState, ChangesItsWeights])
def test_a_subclass_that_computes_something_else_is_refused_by_name_and_not_kept(kind):
    model = nn.ModuleDict({"encoder": nn.ModuleDict({"lstm": randomise(kind(2, 3, dtype=torch.float64))})})
    lstm = model["encoder"]["lstm"]
    with record(model) as recording:
        with pytest.raises(CertificateError, match="^encoder.lstm, call 0: .* subclass") as caught:
            lstm(call_of(Case())[0])
        assert len(recording) == 0 and recording.certificate.state == "uncertified" and recording.coverage.recorded == {}
    assert "\n" not in str(caught.value) and "forward" not in vars(lstm)


def test_a_root_layer_is_named_in_words():
    layer = randomise(OtherWeights(2, 3, dtype=torch.float64))
    with record(layer), pytest.raises(CertificateError, match="^the model, call 0: "):
        layer(call_of(Case())[0])


class SometimesOther(nn.LSTM):
    other = False

    def forward(self, input, hx=None):
        return super().forward(input + self.other, hx)


def test_calls_before_and_after_the_refused_one_are_kept():
    layer = randomise(SometimesOther(2, 3, dtype=torch.float64))
    input, _ = call_of(Case())
    with record(layer) as recording:
        layer(input)
        layer.other = True
        with pytest.raises(CertificateError, match="call 1: "):
            layer(input)
        layer.other = False
        layer(input)
    assert [check.call for check in recording.certificate.calls] == [0, 1] and len(recording.calls["l0"]) == 2
    assert recording.certificate.state == "certified"


def test_a_subclass_that_computes_the_same_is_certified():
    class Same(nn.LSTM):
        def forward(self, input, hx=None):
            return super().forward(input, hx)

    layer = randomise(Same(2, 3, dtype=torch.float64))
    with record(layer) as recording:
        layer(call_of(Case())[0])
    assert recording.certificate.state == "certified" and recording["l0"].kind == "lstm"


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("grad", [True, False])
def test_autocast_is_certified_at_the_tolerance_of_what_it_computes_in(kind, grad):
    layer, input = randomise(kind(2, 3)), call_of(Case(), torch.float32)[0]
    given = input if kind in (nn.LSTM, nn.GRU, nn.RNN) else input[0]
    with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype=torch.bfloat16):
        try:
            expected = layer(given)
        except RuntimeError as error:  # a processor on which PyTorch itself has no such pass: its own error, with and without recording
            with pytest.raises(RuntimeError, match=str(error)[:40]), record(layer):
                layer(given)
            return
        with record(layer) as recording:
            found = layer(given)
    assert torch.equal(*(returned if isinstance(returned, torch.Tensor) else returned[0] for returned in (found, expected)))
    assert recording.certificate.calls[0].dtype == "bfloat16" and recording.certificate.state == "certified"


@pytest.mark.parametrize("kind", ["torch", FULL])
def test_each_call_has_its_check(kind):
    case = Case()
    layer = torch_lstm(case) if kind == "torch" else peephole_lstm(case, *kind)
    model = nn.ModuleDict({"a": layer, "b": torch_lstm(case)})
    with record(model) as recording:
        for name in ("a", "b", "a"):
            model[name](call_of(case)[0])
    assert [(check.module, check.call) for check in recording.certificate.calls] == [("a", 0), ("b", 0), ("a", 1)]
    assert all(0 <= check.worst <= check.tolerance < 1e-11 and check.scale > 0 for check in recording.certificate.calls)
    assert str(recording.certificate).startswith("certified: 3 calls recomputed, largest difference ")
