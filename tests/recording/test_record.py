"""`record`: every signal as the scalar loop has it, on a model that stays as it was, however it is called."""

import copy
import math

import pytest
import torch
from cases import (
    FORMS,
    LAYOUTS,
    LENGTHS,
    Case,
    apart,
    call_of,
    close,
    drawn_cases,
    laid_out,
    peephole_lstm,
    randomise,
    same_results,
    slowly,
    torch_lstm,
)
from cases import sequences_and_state as drawn
from hypothesis import given
from hypothesis import strategies as st
from scalar import SIGNALS
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from lstm_explain.errors import InputError, RecordingError
from lstm_explain.nn.lstm import PeepholeLSTM, PeepholeLSTMCell
from lstm_explain.recording.runner import record

KINDS = ["torch", *FORMS]
DEEP = {"num_layers": 2, "bidirectional": True, "initial_state": True}


def layer_of(kind, case, dtype=torch.float64):
    return torch_lstm(case, dtype) if kind == "torch" else peephole_lstm(case, *kind, dtype=dtype)


def of_layout(layout, **options):
    return Case(layout=layout, lengths=LENGTHS[layout], **options)


class Classifier(nn.Module):
    """A recurrent layer somewhere inside, and layers around it."""

    def __init__(self, lstm):
        super().__init__()
        self.before = nn.Linear(2, 2, dtype=torch.float64)
        self.encoder = nn.ModuleDict({"lstm": lstm})
        self.after = nn.Linear(len(lstm.weight_hh_l0[0]) * (1 + lstm.bidirectional), 1, dtype=torch.float64)

    def forward(self, x, hx=None):
        return self.after(self.encoder["lstm"](self.before(x), hx)[0])


def classifier(kind="torch", **options):
    return Classifier(layer_of(kind, Case(**options)))


def tensors_of(returned):
    output, (h_n, c_n) = returned
    return [output.data if isinstance(output, PackedSequence) else output, h_n, c_n]


def assert_recorded(case, layer, recording):
    """One call of the case, signal by signal, in the order of the input."""
    time = max(case.lengths)
    zeros = torch.zeros(len(case.suffixes), len(case.lengths), case.hidden_size, dtype=torch.float64)
    h_0, c_0 = drawn(case)[1] or (zeros[..., : case.proj_size or case.hidden_size], zeros)
    if h_0.dim() == 2:
        h_0, c_0 = h_0.unsqueeze(1), c_0.unsqueeze(1)
    assert list(recording) == case.suffixes
    for at, suffix in enumerate(case.suffixes):
        trajectory = recording[suffix]
        reverse = suffix.endswith("_reverse")
        for b, (signals, *_) in enumerate(slowly(case, layer)):
            for name in SIGNALS:
                close(getattr(trajectory, name)[b, : case.lengths[b]], signals[suffix][name])
        assert trajectory.valid.tolist() == [[t < length for t in range(time)] for length in case.lengths]
        assert trajectory.first_step.tolist() == [length - 1 if reverse else 0 for length in case.lengths]
        assert trajectory.reverse is reverse and trajectory.name == suffix
        assert trajectory.padding == ("unknown" if not case.packed else "none" if trajectory.valid.all() else "known")
        close(trajectory.initial_hidden_state, h_0[at])
        close(trajectory.initial_cell_state, c_0[at])
        assert trajectory.residual() <= 1e-12
        assert all(not signal.requires_grad for signal in trajectory.signals.values())
    assert recording.certificate.state == "certified"


@pytest.mark.parametrize(
    "options",
    [pytest.param({}, id="plain"), pytest.param(DEEP, id="deep"), pytest.param(DEEP | {"proj_size": 2, "bias": False}, id="projected")],
)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_equals_the_scalar_loop(kind, layout, options):
    case = of_layout(layout, **options)
    layer = layer_of(kind, case)
    with record(layer) as recording:
        returned = layer(*call_of(case))
    assert_recorded(case, layer, recording)
    same_results(case, returned, slowly(case, layer))


@given(case=drawn_cases(), kind=st.sampled_from(KINDS))
def test_a_drawn_recording_equals_the_scalar_loop(case, kind):
    layer = layer_of(kind, case)
    with record(layer) as recording:
        layer(*call_of(case))
    assert_recorded(case, layer, recording)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trajectory_says_which_layer_it_is_of(kind):
    case = Case(proj_size=2)
    layer = layer_of(kind, case)
    with record(layer) as recording:
        layer(*call_of(case))
    trajectory = recording["l0"]
    assert trajectory.kind == ("lstm" if kind == "torch" else "peephole_lstm")
    assert tuple(trajectory.form) == ((None, "previous") if kind == "torch" else kind)
    assert trajectory.hidden_state.shape == (3, 4, 2) and trajectory.cell_state.shape == (3, 4, 3)
    expected = {"weight_hr"} if kind == "torch" or kind[0] is None else {"weight_hr", "weight_ch"}
    assert set(trajectory.weights) == expected
    for name, weight in trajectory.weights.items():
        assert torch.equal(weight, getattr(layer, f"{name}_l0"))


MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["torch", ("full", "previous"), ("diagonal", "graves")])
def test_outputs_are_the_same_bit_for_bit(kind, layout, dtype, mode):
    case = of_layout(layout, hidden_size=16, **DEEP)
    layer = layer_of(kind, case, dtype)
    call = call_of(case, dtype)
    with MODES[mode]():
        expected = layer(*call)
        with record(layer) as recording:
            returned = layer(*call)
    assert all(map(torch.equal, tensors_of(returned), tensors_of(expected)))
    assert type(returned[0]) is type(expected[0])
    assert returned[0][0].requires_grad is (mode == "grad")
    assert recording.certificate.state == "certified"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_gradients_flow_and_are_the_same_bit_for_bit(kind, layout, dtype):
    case = of_layout(layout, **DEEP)
    layer = layer_of(kind, case, dtype)
    sequences, state = drawn(case, dtype)
    leaves = [tensor.requires_grad_() for tensor in (*sequences, *state)]

    def gradients():
        results = tensors_of(layer(laid_out(case, sequences), state))
        return torch.autograd.grad(sum(result.sum() for result in results), [*leaves, *layer.parameters()])

    expected = gradients()
    with record(layer):
        found = gradients()
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_half_precision_is_certified_at_its_own_tolerance(kind, dtype, tolerance):
    case = of_layout("batch_first")
    layer = layer_of(kind, case, dtype)
    with torch.no_grad(), record(layer) as recording:
        layer(*call_of(case, dtype))
    assert recording.certificate.state == "certified"
    assert recording["l0"].forget_gate.dtype == dtype
    (check,) = recording.certificate.calls
    assert check.tolerance == pytest.approx(tolerance * (1 + check.scale)) and check.dtype == str(dtype).removeprefix("torch.")


def state_of(model):
    """Whatever recording could leave behind."""
    hooks = [name for name in vars(nn.Identity()) if "hooks" in name]
    parts = [(name, set(vars(module)), [len(vars(module)[h]) for h in hooks], module.training) for name, module in model.named_modules()]
    return parts, {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_untouched(model, before):
    parts, tensors = state_of(model)
    assert parts == before[0]
    assert all("forward" not in vars(module) for module in model.modules())
    assert all(torch.equal(tensor, before[1][name]) for name, tensor in tensors.items())


class Stop(Exception):
    """Raised by a test in the middle of something."""


def raise_in_the_body(model, x):
    with record(model):
        model(x)
        raise Stop


def raise_in_the_forward_pass(model, x):
    with record(model):
        model(x[..., :1])


def raise_in_the_check(model, x):
    with record(model, lengths=[99]):
        model(x)


@pytest.mark.parametrize(
    ("use", "error"), [(raise_in_the_body, Stop), (raise_in_the_forward_pass, RuntimeError), (raise_in_the_check, InputError)]
)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_nothing_is_left_behind_by_an_exception(kind, training, use, error):
    model = classifier(kind).train(training)
    before, random = state_of(model), torch.get_rng_state()
    with pytest.raises(error):
        use(model, call_of(Case())[0])
    assert_untouched(model, before)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["torch", ("diagonal", "graves")])
def test_nothing_is_left_behind(kind, training):
    model = classifier(kind, num_layers=2, bidirectional=True).train(training)
    before, random = state_of(model), torch.get_rng_state()
    with record(model) as recording:
        model(call_of(Case())[0])
        assert model.training is training
    assert_untouched(model, before)
    assert torch.equal(torch.get_rng_state(), random)
    model(call_of(Case())[0])
    assert len(recording.calls["encoder.lstm.l0"]) == 1


def test_the_random_state_moves_as_it_would_have():
    case = Case(num_layers=3, hidden_size=8)
    layer = randomise(PeepholeLSTM(**case.arguments, dropout=0.5, dtype=torch.float64))
    input, _ = call_of(case)
    found = []
    for recorded in (False, True):
        torch.manual_seed(1)
        if recorded:
            with record(layer):
                output = layer(input)[0]
        else:
            output = layer(input)[0]
        found.append((output, torch.get_rng_state()))
    assert all(map(torch.equal, *found))


def test_a_forward_of_the_users_own_on_the_instance_is_put_back():
    layer = torch_lstm(Case())
    original, calls = layer.forward, []

    def counting(input, hx=None):
        calls.append(input)
        return original(input, hx)

    layer.forward = counting
    with record(layer) as recording:
        layer(call_of(Case())[0])
    assert layer.forward is counting and len(calls) == 1 and len(recording.calls["l0"]) == 1


@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_hooks_of_the_user_run_once_and_see_the_same(kind):
    layer = layer_of(kind, Case())
    seen = []
    handle = layer.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    with record(layer):
        output, _ = layer(call_of(Case())[0])
    handle.remove()
    assert len(seen) == 1 and seen[0] is output


@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_recordings_of_one_model_nest_and_unwind(kind):
    layer = layer_of(kind, Case())
    before, (input, _) = state_of(layer), call_of(Case())
    expected = layer(input)[0]
    with record(layer) as outer:
        layer(input)
        with record(layer) as inner:
            assert torch.equal(layer(input)[0], expected)
        layer(input)
    assert [len(recording.calls["l0"]) for recording in (outer, inner)] == [3, 1]
    assert torch.equal(inner["l0"].cell_state, outer.calls["l0"][1].trajectory.cell_state)
    assert_untouched(layer, before)


def test_keys_are_the_path_and_the_suffix_of_torch():
    model = classifier(num_layers=2, bidirectional=True)
    with record(model) as recording:
        model(call_of(Case())[0])
    assert list(recording) == [f"encoder.lstm.{suffix}" for suffix in ("l0", "l0_reverse", "l1", "l1_reverse")]
    assert recording["encoder.lstm.l1_reverse"].name == "encoder.lstm.l1_reverse"
    assert recording.coverage.recorded == {"encoder.lstm": 1}


class Compiled(nn.Module):
    """Names as `torch.compile` gives them."""

    def __init__(self, model):
        super().__init__()
        self._orig_mod = model

    def forward(self, *args):
        return self._orig_mod(*args)


@pytest.mark.parametrize("wrap", [nn.DataParallel, Compiled, lambda model: nn.DataParallel(Compiled(model))])
@pytest.mark.parametrize(("inner", "key"), [(classifier, "encoder.lstm.l0"), (lambda: torch_lstm(Case()), "l0")], ids=["nested", "root"])
def test_wrappers_do_not_show_in_the_keys(inner, key, wrap):
    model = wrap(inner())
    with record(model) as recording:
        model(call_of(Case())[0])
    assert list(recording) == [key]


def test_two_layers_never_share_a_key():
    model = nn.Module()
    model.lstm, model.module = torch_lstm(Case()), nn.Module()
    model.module.lstm = torch_lstm(Case(seed=1))
    with record(model) as recording:
        model.lstm(call_of(Case())[0])
        model.module.lstm(call_of(Case())[0])
    assert len(recording) == 2


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda lstm, x, hx: lstm.forward(x, hx), id="forward"),
        pytest.param(lambda lstm, x, hx: lstm(input=x, hx=hx), id="keywords"),
        pytest.param(lambda lstm, x, hx: lstm(x, hx=hx), id="one_keyword"),
        pytest.param(lambda lstm, x, hx: lstm.forward(hx=hx, input=x), id="forward_keywords"),
    ],
)
@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_every_way_of_calling_a_layer_is_seen(kind, call):
    case = Case(initial_state=True)
    model = Classifier(layer_of(kind, case))
    lstm = model.encoder["lstm"]
    with record(model) as recording:
        call(lstm, *call_of(case))
    with record(lstm) as expected:
        lstm(*call_of(case))
    assert torch.equal(recording["encoder.lstm.l0"].cell_state, expected["l0"].cell_state)
    close(recording["encoder.lstm.l0"].initial_hidden_state, call_of(case)[1][0][0])


@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_a_layer_that_two_paths_share_is_recorded_once(kind):
    model = nn.Module()
    model.one = model.two = layer_of(kind, Case())
    with record(model) as recording:
        model.two(call_of(Case())[0])
    assert {key: len(calls) for key, calls in recording.calls.items()} == {"one.l0": 1}


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "proj_size": 2}])
@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1), (2, 3)])
@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_calls_that_carry_their_state_join_along_time(kind, pieces, options):
    case = Case("batch_first", (5, 5), initial_state=True, **options)
    layer = layer_of(kind, case)
    input, hx = call_of(case)
    with record(layer) as whole:
        layer(input, hx)
    with record(layer) as recording:
        state = hx
        for piece in input.split(pieces, dim=1):
            _, (h, c) = layer(piece, state)
            state = h.detach().clone(), c
    for suffix in case.suffixes:
        joined, expected = recording[suffix], whole[suffix]
        for name in SIGNALS:
            close(joined.signals[name], expected.signals[name])
        assert joined.valid.shape == (2, 5) and joined.valid.all() and joined.residual() <= 1e-12
        assert torch.equal(joined.initial_cell_state, expected.initial_cell_state)
        assert torch.equal(joined.initial_hidden_state, expected.initial_hidden_state)
        calls = recording.calls[suffix]
        assert [call.continues for call in calls] == [False] + [True] * (len(pieces) - 1)
        assert [call.trajectory.valid.shape[1] for call in calls] == list(pieces)
        close(calls[-1].last_cell_state, joined.cell_state[:, -1])
        close(calls[-1].last_hidden_state, joined.hidden_state[:, -1])


@pytest.mark.parametrize("kind", ["torch", ("diagonal", "graves")])
def test_fresh_calls_join_along_batch_and_the_shorter_are_padded(kind):
    layer = layer_of(kind, Case("batch_first"))
    batches = [call_of(Case("batch_first", lengths, seed=seed))[0] for seed, lengths in enumerate([(2, 2), (4,), (3, 3, 3)])]
    with record(layer) as recording:
        for batch in batches:
            recording.annotate(lengths=[batch.shape[1]] * len(batch))
            layer(batch)
            assert len(recording["l0"].valid) >= len(batch)
    joined = recording["l0"]
    assert joined.valid.sum(1).tolist() == [2, 2, 4, 3, 3, 3] and joined.valid.shape == (6, 4)
    assert joined.padding == "known" and recording.coverage.padding == "none"
    assert joined.residual() <= 1e-12
    expected = [call.trajectory for call in recording.calls["l0"]]
    assert [part.padding for part in expected] == ["none"] * 3
    for name in SIGNALS:
        assert torch.equal(joined.steps(name), torch.cat([part.steps(name) for part in expected]))
        assert not joined.signals[name][~joined.valid].any()
    assert torch.equal(joined.initial_cell_state, torch.cat([part.initial_cell_state for part in expected]))


def test_two_streams_one_after_the_other_are_two_rows():
    layer, case = torch_lstm(Case("batch_first")), Case("batch_first", (5,))
    input, _ = call_of(case)
    with record(layer) as recording:
        for pieces in ((1, 1, 3), (2, 2, 1), (4, 1)):
            state = None
            for piece in input.split(pieces, dim=1):
                _, state = layer(piece, state)
    joined = recording["l0"]
    assert joined.valid.shape == (3, 5) and len(recording.calls["l0"]) == 8
    close(joined.cell_state[0], joined.cell_state[1])
    close(joined.cell_state[0], joined.cell_state[2])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda h, c: None, id="left_out"),
        pytest.param(lambda h, c: (torch.zeros_like(h), torch.zeros_like(c)), id="zero"),
        pytest.param(lambda h, c: (h, c + 1e-9), id="nearly"),
        pytest.param(lambda h, c: (h.flip(1), c.flip(1)), id="reordered"),
    ],
)
def test_a_state_that_is_not_the_one_returned_starts_afresh(change):
    layer, input = torch_lstm(Case("batch_first")), call_of(Case("batch_first", (2, 2)))[0]
    with record(layer) as recording:
        _, state = layer(input)
        layer(input, change(*state))
    assert recording["l0"].valid.shape == (4, 2)
    assert not recording.calls["l0"][1].continues


def test_two_directions_do_not_continue_in_time():
    case = Case("batch_first", (2, 2), bidirectional=True)
    layer = torch_lstm(case)
    with record(layer) as recording:
        _, state = layer(call_of(case)[0])
        layer(call_of(case)[0], state)
    for suffix in ("l0", "l0_reverse"):
        assert recording[suffix].valid.shape == (4, 2) and recording[suffix].residual() <= 1e-12


def test_packed_calls_join_along_time_only_where_all_sequences_are_equally_long():
    even, uneven = Case("packed_unsorted", (2, 2)), Case("packed_unsorted", (1, 2))
    layer = torch_lstm(even)
    for case, shape in ((even, (2, 4)), (uneven, (4, 2))):
        with record(layer) as recording:
            _, state = layer(call_of(case)[0])
            layer(call_of(case)[0], state)
        assert recording["l0"].valid.shape == shape and recording["l0"].residual() <= 1e-12


def test_reverse_trajectories_of_unequal_calls_keep_their_equations():
    layer = torch_lstm(Case(bidirectional=True, proj_size=2))
    with record(layer) as recording:
        for seed, lengths in enumerate([(3, 1, 2), (5,), (2, 2)]):
            layer(call_of(Case("packed_unsorted", lengths, seed=seed))[0])
    joined = recording["l0_reverse"]
    assert joined.first_step.tolist() == [2, 0, 1, 4, 1, 1] and joined.residual() <= 1e-12


def write_into_the_output(output, states, hx, layer):
    output.fill_(9.0)


def write_into_the_last_states(output, states, hx, layer):
    for state in states:
        state.fill_(9.0)


def write_into_the_initial_states(output, states, hx, layer):
    for state in hx:
        state.fill_(9.0)


def write_into_the_weights(output, states, hx, layer):
    for parameter in layer.parameters():
        parameter.fill_(9.0)


@pytest.mark.parametrize(
    "write", [write_into_the_output, write_into_the_last_states, write_into_the_initial_states, write_into_the_weights]
)
@pytest.mark.parametrize("layout", ["time_first", "batch_first", "unbatched"])
@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_writing_in_place_afterwards_does_not_change_the_recording(kind, layout, write):
    case = of_layout(layout, proj_size=2, initial_state=True)
    layer, again = layer_of(kind, case), layer_of(kind, case)
    with torch.no_grad():
        with record(layer) as recording:
            input, hx = call_of(case)
            output, states = layer(input, hx)
            write(output, states, hx, layer)
        with record(again) as expected:
            again(*call_of(case))
    for found, wanted in ((recording["l0"], expected["l0"]), (recording.calls["l0"][0], expected.calls["l0"][0])):
        if isinstance(found, tuple):
            assert torch.equal(found.last_hidden_state, wanted.last_hidden_state)
            assert torch.equal(found.last_cell_state, wanted.last_cell_state)
            continue
        assert all(torch.equal(found.signals[name], wanted.signals[name]) for name in SIGNALS)
        assert torch.equal(found.initial_hidden_state, wanted.initial_hidden_state)
        assert torch.equal(found.initial_cell_state, wanted.initial_cell_state)
        assert all(torch.equal(found.weights[name], wanted.weights[name]) for name in wanted.weights)
        assert found.residual() <= 1e-12


@pytest.mark.parametrize(("lengths", "padding"), [(None, "unknown"), ([4, 4, 4], "none"), ([4, 1, 3], "known"), ([1, 1, 1], "known")])
@pytest.mark.parametrize("layout", ["time_first", "batch_first"])
def test_lengths_say_what_is_padding(layout, lengths, padding):
    layer = torch_lstm(Case(layout))
    with record(layer, lengths=lengths) as recording:
        layer(call_of(Case(layout))[0])
    assert recording["l0"].padding == recording.coverage.padding == padding
    assert recording["l0"].valid.sum(1).tolist() == (lengths or [4, 4, 4])
    assert f"padding: {padding}" in str(recording.coverage)


@pytest.mark.parametrize(("lengths", "padding"), [((3, 3), "none"), ((1, 3), "known")])
def test_a_packed_sequence_brings_its_own_lengths(lengths, padding):
    layer, case = torch_lstm(Case()), Case("packed_unsorted", lengths)
    for given_too in (None, list(lengths), torch.tensor(lengths, dtype=torch.int32)):
        with record(layer, lengths=given_too) as recording:
            layer(call_of(case)[0])
        assert recording["l0"].padding == padding and recording["l0"].valid.sum(1).tolist() == list(lengths)


def test_lengths_can_be_annotated_before_each_call():
    layer, input = torch_lstm(Case("batch_first")), call_of(Case("batch_first"))[0]
    with record(layer) as recording:
        for lengths in (torch.tensor([1, 2, 3]), [4, 4, 4], None):
            recording.annotate(lengths=lengths)
            layer(input)
    assert [call.trajectory.padding for call in recording.calls["l0"]] == ["known", "none", "unknown"]
    assert recording["l0"].padding == recording.coverage.padding == "unknown"
    assert recording["l0"].valid.sum(1).tolist() == [1, 2, 3, 4, 4, 4, 4, 4, 4]


def refused(error, call):
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value) and str(caught.value).startswith("needed ")
    return str(caught.value)


@pytest.mark.parametrize(
    "lengths",
    [
        [4, 4],
        [4, 4, 4, 4],
        [[4], [4], [4]],
        4,
        [4.0, 4.0, 4.0],
        [4, 0, 4],
        [4, -1, 4],
        [4, 5, 4],
        [True, True, True],
        "444",
        [4, None, 4],
        [[4], [4, 4]],
    ],
    ids=str,
)
def test_lengths_that_do_not_fit_are_refused(lengths):
    layer = torch_lstm(Case("batch_first"))

    def call():
        with record(layer, lengths=lengths):
            layer(call_of(Case("batch_first"))[0])

    refused(InputError, call)
    assert "forward" not in vars(layer)


def test_lengths_other_than_those_of_a_packed_sequence_are_refused():
    layer = torch_lstm(Case())

    def call():
        with record(layer, lengths=[3, 1]):
            layer(call_of(Case("packed_unsorted", (1, 3)))[0])

    assert "[1, 3]" in refused(InputError, call)


@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_padding_does_not_change_valid_values(kind):
    case = Case("packed_unsorted", (2, 4, 1), num_layers=2, hidden_size=4)
    layer = layer_of(kind, case)
    layer.batch_first = True
    sequences, _ = drawn(case)
    with record(layer) as packed:
        layer(laid_out(case, sequences))
    for fill in (0.0, 7.0, math.nan):
        padded = torch.full((3, 6, 2), fill, dtype=torch.float64)
        for row, sequence in zip(padded, sequences, strict=True):
            row[: len(sequence)] = sequence
        with record(layer, lengths=case.lengths) as recording:
            layer(padded)
        for suffix in ("l0", "l1"):
            for name in SIGNALS:
                close(recording[suffix].steps(name), packed[suffix].steps(name))
            assert recording[suffix].residual() <= 1e-12


@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_the_reverse_direction_reads_the_padding_of_a_padded_batch_and_the_recording_says_so(kind):
    case = Case("batch_first", (4, 4), bidirectional=True)
    layer = layer_of(kind, case)
    with record(layer, lengths=[2, 4]) as recording:
        layer(call_of(case)[0])
    trajectory = recording["l0_reverse"]
    assert trajectory.first_step.tolist() == [3, 3] and trajectory.residual() <= 1e-12
    for b, (signals, *_) in enumerate(slowly(case, layer)):
        close(trajectory.cell_state[b], signals["l0_reverse"]["cell_state"])


def test_nan_in_the_input_is_recorded_where_the_model_has_it():
    case = Case("batch_first")
    for kind in ("torch", ("full", "previous")):
        layer = layer_of(kind, case)
        input, _ = call_of(case)
        input[1, 2, 0] = math.nan
        with record(layer) as recording:
            output, _ = layer(input)
        assert torch.equal(recording["l0"].hidden_state.isnan(), output.isnan())
        assert recording.certificate.calls[0].nonfinite == int(output.isnan().sum()) == 2 * 3
        assert recording.certificate.state == "certified"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Linear(2, 2), ["no recurrent layer", "Linear"]),
        (nn.GRU(2, 2), ["GRU"]),
        (nn.ModuleDict({"a": nn.GRU(2, 2), "b": nn.RNNCell(2, 2)}), ["a (GRU)", "b (RNNCell)"]),
        (nn.ModuleDict({"cell": nn.LSTMCell(2, 2)}), ["cell (LSTMCell)"]),
        (nn.ModuleDict({"cell": PeepholeLSTMCell(2, 2)}), ["cell (PeepholeLSTMCell)"]),
    ],
)
def test_a_model_that_can_not_be_opened_is_refused(model, words):
    message = refused(RecordingError, lambda: record(model).__enter__())
    assert all(word in message for word in words)


@pytest.mark.parametrize("model", [None, lambda x: x, torch.zeros(1)])
def test_what_is_not_a_module_is_refused(model):
    refused(InputError, lambda: record(model).__enter__())


def test_coverage_says_what_was_not_seen():
    model = nn.ModuleDict({name: torch_lstm(Case()) for name in ("used", "unused")})
    model["gru"], model["cell"] = nn.GRU(2, 2), PeepholeLSTMCell(2, 2)
    with record(model) as recording:
        assert str(recording.certificate) == "uncertified: nothing was recorded" and len(recording) == 0
        model["used"](call_of(Case())[0])
        model["used"](call_of(Case())[0])
    coverage = recording.coverage
    assert coverage.recorded == {"used": 2} and coverage.never_called == ("unused",)
    assert coverage.not_opened == {"gru": "GRU", "cell": "PeepholeLSTMCell"}
    assert all(words in str(coverage) for words in ("used x2", "never called: unused", "gru (GRU)", "padding: unknown"))


def test_dropout_between_the_layers_of_torch_is_refused_in_training_mode():
    case = Case(num_layers=2)
    layer = nn.LSTM(**case.arguments, dropout=0.5, dtype=torch.float64)
    random = torch.get_rng_state()

    def call():
        with record(layer):
            layer(call_of(case)[0])

    assert "eval()" in refused(RecordingError, call)
    assert torch.equal(torch.get_rng_state(), random) and "forward" not in vars(layer)
    layer.eval()
    call()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_training_mode_without_random_layers_is_recorded(dropout):
    # PyTorch warns that dropout after the only layer does nothing; what counts here is that it isn't taken for randomness.
    layer = torch_lstm(Case())
    layer.dropout = dropout
    with record(layer.train()) as recording:
        layer(call_of(Case())[0])
    assert recording.certificate.state == "certified"


class Scaled(PeepholeLSTM):
    """A layer of ours with a forward pass of its own."""

    def forward(self, input, hx=None):
        return super().forward(2 * input, hx)


def test_a_subclass_of_our_layer_keeps_its_own_forward_pass_or_is_refused():
    layer = randomise(Scaled(2, 3, dtype=torch.float64))
    input, _ = call_of(Case())
    expected = layer(input)[0]
    try:
        with record(layer):
            assert torch.equal(layer(input)[0], expected)
    except RecordingError:
        pass


class Renamed(nn.LSTM):
    """As some users write it: other names for the same arguments."""

    def forward(self, x, state=None):
        return super().forward(x, state)


def test_a_subclass_may_name_its_arguments_otherwise():
    layer = randomise(Renamed(2, 3, dtype=torch.float64))
    input, _ = call_of(Case())
    with record(layer) as recording:
        output, _ = layer(input)
    close(recording["l0"].hidden_state, output.detach().transpose(0, 1))
    assert recording.certificate.state == "certified"


class OutputOnly(nn.LSTM):
    """Returns something else than a layer does."""

    def forward(self, input, hx=None):
        return super().forward(input, hx)[0]


def test_a_layer_that_returns_something_else_is_refused():
    layer = OutputOnly(2, 3, dtype=torch.float64)

    def call():
        with record(layer):
            layer(call_of(Case())[0])

    refused(RecordingError, call)


def test_apart_and_laid_out_are_inverses():
    # The two helpers that all orders here rest on.
    for layout in LAYOUTS:
        case = of_layout(layout)
        sequences, _ = drawn(case)
        assert all(map(torch.equal, apart(case, laid_out(case, sequences)), sequences))


def test_a_recording_outlives_its_model():
    layer = torch_lstm(Case())
    with record(layer) as recording:
        layer(call_of(Case())[0])
    kept = copy.deepcopy(recording["l0"])
    del layer
    assert torch.equal(kept.cell_state, recording["l0"].cell_state) and kept.residual() <= 1e-12
