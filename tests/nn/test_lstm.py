"""`PeepholeLSTM` as users meet it: equal to `torch.nn.LSTM` without peepholes, its parameters, its copies, its refusals."""

import copy
import math
import pickle
from functools import partial
from io import BytesIO

import pytest
import torch
from cases import FORMS, LAYOUTS, LENGTHS, Case, call_of, close, drawn_cases, laid_out, peephole_lstm, randomise, torch_lstm
from cases import sequences_and_state as drawn
from hypothesis import given
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.prune import l1_unstructured
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from lstm_explain.errors import InputError, LstmExplainError
from lstm_explain.nn.lstm import PeepholeLSTM, PeepholeLSTMCell


def rows_of(output):
    return output.data if isinstance(output, PackedSequence) else output


def results_and_gradients(case, layer):
    """Output, last states, and the gradients of a weighted sum of them all by input, initial state and every parameter."""
    sequences, state = drawn(case)
    leaves = [tensor.requires_grad_() for tensor in (*sequences, *(state or ()))]
    output, (h_n, c_n) = layer(laid_out(case, sequences), state)
    results = [rows_of(output), h_n, c_n]
    loss = sum((result * torch.arange(1.0, result.numel() + 1).to(result).cos().view_as(result)).sum() for result in results)
    return [*results, *torch.autograd.grad(loss, [*leaves, *layer.parameters()])]


def same_layer(case, dropout=0.0, dtype=torch.float64):
    """`torch.nn.LSTM` and our layer without peepholes, with the same weights."""
    stock = randomise(nn.LSTM(**case.arguments, dropout=dropout, dtype=dtype), case.seed)
    own = PeepholeLSTM(**case.arguments, dropout=dropout, peephole=None, dtype=dtype)
    own.load_state_dict(stock.state_dict())
    return stock, own


@given(drawn_cases())
def test_without_peepholes_results_and_all_gradients_are_those_of_torch(case):
    stock, own = same_layer(case)
    for actual, expected in zip(results_and_gradients(case, own), results_and_gradients(case, stock), strict=True):
        close(actual, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dropout_between_layers_draws_the_masks_of_torch(layout):
    case = Case(layout=layout, lengths=LENGTHS[layout], hidden_size=8, num_layers=3, bidirectional=True, initial_state=True)
    stock, own = same_layer(case, dropout=0.5)
    found = []
    for layer in (own, stock):
        torch.manual_seed(3)
        found.append((results_and_gradients(case, layer), torch.get_rng_state()))
    for actual, expected in zip(found[0][0], found[1][0], strict=True):
        close(actual, expected)
    assert torch.equal(found[0][1], found[1][1])


def test_dropout_is_off_in_evaluation_mode():
    case = Case(num_layers=2)
    layer = PeepholeLSTM(**case.arguments, dropout=0.9, dtype=torch.float64).eval()
    input, _ = call_of(case)
    assert torch.equal(layer(input)[0], layer(input)[0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_float32_results_and_gradients_are_those_of_torch(layout):
    case = Case(layout=layout, lengths=LENGTHS[layout], hidden_size=16, num_layers=2, bidirectional=True)
    stock, own = same_layer(case, dtype=torch.float32)
    input, _ = call_of(case, torch.float32)
    results = []
    for layer in (own, stock):
        output, (h_n, c_n) = layer(input)
        results.append([rows_of(output), h_n, c_n, *torch.autograd.grad(rows_of(output).sum() + c_n.sum(), layer.parameters())])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("form", FORMS)
def test_half_precision_runs_and_is_near_the_same_layer_in_float64(form, dtype, tolerance):
    case = Case(num_layers=2, bidirectional=True, initial_state=True)
    half = peephole_lstm(case, *form, dtype=dtype)
    output, (h_n, c_n) = half(*call_of(case, dtype))
    output.sum().backward()
    whole = copy.deepcopy(half).double()
    input, hx = call_of(case, dtype)
    expected, (h, c) = whole(input.double(), tuple(state.double() for state in hx))
    for actual, wanted in ((output, expected), (h_n, h), (c_n, c)):
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double(), wanted, rtol=tolerance, atol=tolerance)
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in half.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_under_autocast_it_computes_in_the_dtype_of_its_parameters(form):
    case = Case(num_layers=2)
    layer = peephole_lstm(case, *form, dtype=torch.float32)
    input, _ = call_of(case, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, (_, c_n) = layer(input)
    assert output.dtype == torch.float32
    assert torch.equal(output, layer(input)[0])
    (output.sum() + c_n.sum()).backward()


def test_results_can_be_written_into_before_the_backward_pass():
    # torch.nn.LSTM allows it in float64, and code such as `output += residual` relies on it.
    case = Case()
    gradients = []
    for layer in same_layer(case):
        output, (_, c_n) = layer(call_of(case)[0])
        output.mul_(2)
        c_n.add_(1)
        gradients.append(torch.autograd.grad(output.sum() + c_n.sum(), layer.parameters()))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "weight_ch")


@pytest.mark.parametrize(
    ("form", "shape"),
    [
        (("full", "previous"), (4 * 5, 5)),
        (("diagonal", "previous"), (4, 5)),
        (("full", "graves"), (3 * 5, 5)),
        (("diagonal", "graves"), (3, 5)),
    ],
)
def test_parameters_have_the_names_shapes_and_order_of_torch_and_peepholes_after_them(form, shape):
    layer = PeepholeLSTM(2, 5, 2, bidirectional=True, proj_size=3, peephole=form[0], wiring=form[1])
    suffixes = ("l0", "l0_reverse", "l1", "l1_reverse")
    assert [name for name, _ in layer.named_parameters()] == [f"{name}_{suffix}" for suffix in suffixes for name in NAMES]
    shapes = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
    stock = nn.LSTM(2, 5, 2, bidirectional=True, proj_size=3)
    for suffix in suffixes:
        assert shapes.pop(f"weight_ch_{suffix}") == shape
    assert shapes == {name: tuple(parameter.shape) for name, parameter in stock.named_parameters()}
    assert list(shapes) == [name for name, _ in stock.named_parameters()]


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"proj_size": 2}, {"num_layers": 3, "bidirectional": True, "bias": False}])
def test_without_peepholes_the_state_dict_is_that_of_torch(options):
    stock, own = nn.LSTM(2, 3, **options), PeepholeLSTM(2, 3, **options, peephole=None)
    assert {k: v.shape for k, v in own.state_dict().items()} == {k: v.shape for k, v in stock.state_dict().items()}
    assert list(own.state_dict()) == list(stock.state_dict())
    stock.load_state_dict(own.state_dict())


@pytest.mark.parametrize(
    ("form", "shape"),
    [
        (("full", "previous"), (12, 3)),
        (("diagonal", "previous"), (4, 3)),
        (("full", "graves"), (9, 3)),
        (("diagonal", "graves"), (3, 3)),
        ((None, "previous"), None),
    ],
)
def test_a_cells_parameters_are_those_of_torch_and_peepholes(form, shape):
    shapes = {n: tuple(p.shape) for n, p in PeepholeLSTMCell(2, 3, peephole=form[0], wiring=form[1]).named_parameters()}
    assert shapes.pop("weight_ch", None) == shape
    assert shapes == {name: tuple(parameter.shape) for name, parameter in nn.LSTMCell(2, 3).named_parameters()}
    assert "bias_ih" not in dict(PeepholeLSTMCell(2, 3, bias=False).named_parameters())


def copied(layer):
    return copy.deepcopy(layer)


def pickled(layer):
    return pickle.loads(pickle.dumps(layer))


def saved_and_loaded(layer):
    file = BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    twin = PeepholeLSTM(2, 3, 2, bidirectional=True, proj_size=2, peephole=layer.peephole, wiring=layer.wiring, dtype=torch.float64)
    assert twin.load_state_dict(torch.load(file, weights_only=True)) == ([], [])
    return twin


@pytest.mark.parametrize("copies", [copied, pickled, saved_and_loaded])
@pytest.mark.parametrize("form", FORMS)
def test_a_copy_computes_the_same_and_shares_nothing(form, copies):
    case = Case(num_layers=2, bidirectional=True, proj_size=2)
    layer = peephole_lstm(case, *form)
    twin = copies(layer)
    input, _ = call_of(case)
    expected = layer(input)[0]
    assert torch.equal(twin(input)[0], expected)
    assert repr(twin) == repr(layer)
    randomise(twin, seed=7)
    assert torch.equal(layer(input)[0], expected)


def test_the_state_dict_of_torch_loads_and_leaves_the_peepholes_alone():
    case = Case(num_layers=2)
    stock, own = torch_lstm(case), PeepholeLSTM(**case.arguments, dtype=torch.float64)
    missing, unexpected = own.load_state_dict(stock.state_dict(), strict=False)
    assert (missing, unexpected) == (["weight_ch_l0", "weight_ch_l1"], [])
    input, _ = call_of(case)
    close(own(input)[0].detach(), stock(input)[0].detach())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_from_lstm_keeps_results(layout, form):
    case = Case(layout=layout, lengths=LENGTHS[layout], num_layers=2, bidirectional=True, proj_size=2, initial_state=True)
    stock = torch_lstm(case)
    twin = PeepholeLSTM.from_lstm(stock, peephole=form[0], wiring=form[1])
    (actual, states), (expected, torch_states) = twin(*call_of(case)), stock(*call_of(case))
    close(rows_of(actual).detach(), rows_of(expected).detach())
    for state, torch_state in zip(states, torch_states, strict=True):
        close(state.detach(), torch_state.detach())
    assert all(not p.any() for name, p in twin.named_parameters() if name.startswith("weight_ch"))
    assert (twin.peephole, twin.wiring) == form


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_from_lstm_copies_mode_dtype_and_options_and_shares_nothing(training, dtype):
    stock = nn.LSTM(2, 3, 2, bias=False, batch_first=True, dropout=0.25, dtype=dtype).train(training)
    twin = PeepholeLSTM.from_lstm(stock)
    assert twin.training is training and all(parameter.dtype == dtype for parameter in twin.parameters())
    for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size"):
        assert getattr(twin, name) == getattr(stock, name)
    assert {p.data_ptr() for p in twin.parameters()}.isdisjoint(p.data_ptr() for p in stock.parameters())


@pytest.mark.parametrize("change", [weight_norm, partial(l1_unstructured, amount=0.5)], ids=["normalised", "pruned"])
def test_from_lstm_takes_weights_that_are_computed(change):
    stock = change(torch_lstm(Case()), "weight_ih_l0")
    twin = PeepholeLSTM.from_lstm(stock)
    input, _ = call_of(Case())
    close(twin(input)[0].detach(), stock(input)[0].detach())
    assert isinstance(twin.weight_ih_l0, nn.Parameter)


def test_it_starts_remembering_and_near_the_plain_lstm():
    torch.manual_seed(0)
    for form in FORMS:
        layer = PeepholeLSTM(3, 16, 2, bidirectional=True, peephole=form[0], wiring=form[1])
        for name, parameter in layer.named_parameters():
            kind = name.split("_l")[0]
            forget = parameter[16:32]
            if kind == "weight_ch":
                assert parameter.abs().max() == 0 if form[0] == "full" else 0 < parameter.abs().max() <= 0.1
            elif kind.startswith("bias"):
                assert (forget == (1.0 if kind == "bias_ih" else 0.0)).all()
                assert 0 < parameter[:16].abs().max() <= 1 / math.sqrt(16)
            else:
                assert 0.9 / math.sqrt(16) < parameter.abs().max() <= 1 / math.sqrt(16)
    cell = PeepholeLSTMCell(3, 16)
    assert (cell.bias_ih[16:32] == 1).all() and (cell.bias_hh[16:32] == 0).all() and not cell.weight_ch.any()
    assert 0 < PeepholeLSTMCell(3, 16, peephole="diagonal").weight_ch.abs().max() <= 0.1


def test_reset_parameters_starts_afresh():
    layer = randomise(PeepholeLSTM(2, 3))
    layer.reset_parameters()
    assert not layer.weight_ch_l0.any() and (layer.bias_ih_l0[3:6] == 1).all()


def test_flatten_parameters_is_there_and_changes_nothing():
    layer = PeepholeLSTM(2, 3)
    before = copy.deepcopy(layer.state_dict())
    assert layer.flatten_parameters() is None
    assert all(torch.equal(before[name], parameter) for name, parameter in layer.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (PeepholeLSTM(2, 3), "PeepholeLSTM(2, 3, peephole='full', wiring='previous')"),
        (
            PeepholeLSTM(2, 3, 2, False, True, 0.5, True, 1, peephole="diagonal", wiring="graves"),
            "PeepholeLSTM(2, 3, num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=True, proj_size=1, "
            "peephole='diagonal', wiring='graves')",
        ),
        (PeepholeLSTMCell(2, 3, bias=False, peephole=None), "PeepholeLSTMCell(2, 3, bias=False, peephole=None, wiring='previous')"),
    ],
)
def test_repr_says_what_it_is(layer, text):
    assert repr(layer) == text


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
def test_nan_in_the_input_reaches_the_output(form, layout):
    case = Case(layout=layout, lengths=LENGTHS[layout], num_layers=2)
    layer = peephole_lstm(case, *form)
    sequences, _ = drawn(case)
    sequences[0][1, 0] = math.nan
    output, (h_n, c_n) = layer(laid_out(case, sequences))
    assert rows_of(output).isnan().any() and h_n.isnan().any() and c_n.isnan().any()


def test_nan_stays_in_its_own_sequence_and_after_its_own_step():
    case = Case(layout="batch_first")
    layer = peephole_lstm(case, "full")
    input, _ = call_of(case)
    expected = layer(input)[0]
    input[1, 2] = math.nan
    output = layer(input)[0]
    assert output[1, 2:].isnan().all()
    reached = torch.zeros_like(output, dtype=torch.bool)
    reached[1, 2:] = True
    assert torch.equal(output[~reached], expected[~reached])


def test_the_state_may_be_a_list_and_both_arguments_may_be_named():
    case = Case(initial_state=True)
    layer = peephole_lstm(case, "full")
    input, hx = call_of(case)
    assert torch.equal(layer(input, list(hx))[0], layer(input, hx)[0])
    assert torch.equal(layer(input=input, hx=hx)[0], layer(input, hx)[0])


X = torch.zeros(4, 2, 3)
STATE = torch.zeros(1, 2, 5)


def refused(call):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith("needed ") and "got " in message and "\n" not in message
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, LstmExplainError)


@pytest.mark.parametrize(
    "input",
    [
        pytest.param(torch.zeros(4, 2, 7), id="feature_size"),
        pytest.param(pack_sequence([torch.zeros(4, 7)]), id="packed_feature_size"),
        pytest.param(X.double(), id="dtype"),
        pytest.param(X.long(), id="whole_numbers"),
        pytest.param(pack_sequence([torch.zeros(4, 3).double()]), id="packed_dtype"),
        pytest.param(torch.zeros(3), id="one_axis"),
        pytest.param(torch.zeros(1, 4, 2, 3), id="four_axes"),
        pytest.param(torch.zeros(4, 0, 3), id="no_sequence"),
        pytest.param(torch.zeros(0, 2, 3), id="no_step"),
        pytest.param(torch.zeros(0, 3), id="no_step_unbatched"),
        pytest.param([[1.0, 2.0, 3.0]], id="a_list"),
        pytest.param(X.numpy(), id="an_array"),
        pytest.param(None, id="none"),
    ],
)
@pytest.mark.parametrize("batch_first", [False, True])
def test_an_input_that_does_not_fit_is_refused(input, batch_first):
    if batch_first and isinstance(input, torch.Tensor) and input.dim() == 3:
        input = input.transpose(0, 1)
    refused(lambda: PeepholeLSTM(3, 5, batch_first=batch_first)(input))


@pytest.mark.parametrize(
    "hx",
    [
        pytest.param((torch.zeros(1, 2, 4), STATE), id="h_size"),
        pytest.param((STATE, torch.zeros(1, 2, 4)), id="c_size"),
        pytest.param((torch.zeros(1, 3, 5), torch.zeros(1, 3, 5)), id="batch"),
        pytest.param((torch.zeros(2, 2, 5), torch.zeros(2, 2, 5)), id="layers"),
        pytest.param((STATE[:, 0], STATE[:, 0]), id="unbatched_state"),
        pytest.param((STATE.double(), STATE), id="h_dtype"),
        pytest.param((STATE, STATE.double()), id="c_dtype"),
        pytest.param(STATE, id="one_tensor"),
        pytest.param(torch.zeros(2, 1, 2, 5), id="stacked_states"),
        pytest.param((STATE,), id="one_state"),
        pytest.param((STATE, STATE, STATE), id="three_states"),
        pytest.param((STATE, None), id="none"),
        pytest.param("hc", id="a_string"),
    ],
)
def test_an_initial_state_that_does_not_fit_is_refused(hx):
    refused(lambda: PeepholeLSTM(3, 5)(X, hx))


def test_a_batched_state_for_an_unbatched_input_is_refused():
    refused(lambda: PeepholeLSTM(3, 5)(X[:, 0], (STATE[:, :1], STATE[:, :1])))


def test_with_a_projection_the_two_states_have_their_own_sizes():
    layer = PeepholeLSTM(3, 5, proj_size=2)
    refused(lambda: layer(X, (STATE, STATE)))
    refused(lambda: layer(X, (torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))))
    layer(X, (torch.zeros(1, 2, 2), STATE))


@pytest.mark.parametrize(
    "options",
    [
        {"input_size": 0},
        {"input_size": 2.0},
        {"hidden_size": 0},
        {"hidden_size": -1},
        {"hidden_size": True},
        {"hidden_size": "3"},
        {"num_layers": 0},
        {"num_layers": 1.5},
        {"dropout": -0.1},
        {"dropout": 1.5},
        {"dropout": math.nan},
        {"dropout": True},
        {"dropout": "0.5"},
        {"dropout": None},
        {"proj_size": 3},
        {"proj_size": -1},
        {"proj_size": 1.0},
        {"peephole": "none"},
        {"peephole": False},
        {"peephole": True},
        {"wiring": "gers"},
        {"wiring": None},
    ],
    ids=str,
)
def test_sizes_and_options_that_do_not_fit_are_refused(options):
    refused(lambda: PeepholeLSTM(**({"input_size": 2, "hidden_size": 3} | options)))


@pytest.mark.parametrize("options", [{"input_size": 0}, {"hidden_size": 2.5}, {"peephole": "half"}, {"wiring": "new"}], ids=str)
def test_a_cells_sizes_and_options_that_do_not_fit_are_refused(options):
    refused(lambda: PeepholeLSTMCell(**({"input_size": 2, "hidden_size": 3} | options)))


H = torch.zeros(2, 5)


@pytest.mark.parametrize(
    ("input", "hx"),
    [
        pytest.param(torch.zeros(2, 4), None, id="feature_size"),
        pytest.param(X, None, id="three_axes"),
        pytest.param(torch.tensor(1.0), None, id="no_axis"),
        pytest.param(torch.zeros(2, 3).double(), None, id="dtype"),
        pytest.param([0.0, 0.0, 0.0], None, id="a_list"),
        pytest.param(X[0], (H, torch.zeros(2, 4)), id="c_size"),
        pytest.param(X[0], (torch.zeros(3, 5), H), id="h_batch"),
        pytest.param(X[0, 0], (H[:1], H[:1]), id="batched_state"),
        pytest.param(X[0], (H.double(), H), id="h_dtype"),
        pytest.param(X[0], (H, H.double()), id="c_dtype"),
        pytest.param(X[0], H, id="one_tensor"),
        pytest.param(X[0], (H, H, H), id="three_states"),
        pytest.param(X[0], (H, None), id="none"),
        pytest.param(X[0], "hc", id="a_string"),
    ],
)
def test_what_does_not_fit_a_cell_is_refused(input, hx):
    refused(lambda: PeepholeLSTMCell(3, 5)(input, hx))


@pytest.mark.parametrize("other", [nn.GRU(2, 3), nn.LSTMCell(2, 3), None])
def test_from_lstm_takes_nothing_but_an_lstm(other):
    refused(lambda: PeepholeLSTM.from_lstm(other))
