"""`Recording.gradients` over several calls, with frozen weights and with dropout; and what it refuses."""

import pytest
import torch
from cases import close, randomise
from every_kind import KINDS, LAYERS, CoupledLSTMCell, Leaky, coupled, inputs, leaky, model_of, registered
from recordings import refused
from torch import nn

import lstm_explain as lx
from lstm_explain.errors import InputError, RecordingError


@pytest.fixture(autouse=True)
def _leaky_is_known():
    with registered(Leaky, leaky):
        yield


def small(kind=nn.LSTM, **options):
    return randomise(kind(2, 3, batch_first=True, dtype=torch.float64, **options))


def weighted(output):
    return (torch.arange(1.0, output[0].numel() + 1, dtype=output.dtype).cos().view(output[0].shape) * output.square()).sum()


def whole_of(model, x, weight=weighted):
    with lx.record(model, grad=True) as recording:
        output, _ = model(x)
    return recording.gradients(weight(output))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, lx.PeepholeLSTM])
def test_calls_that_carry_their_state_join_along_time(kind):
    model, x = small(kind), inputs()
    with lx.record(model, grad=True) as recording:
        first, state = model(x[:, :2])
        second, _ = model(x[:, 2:], state)
    found, expected = recording.gradients(weighted(torch.cat([first, second], dim=1)))["l0"], whole_of(model, x)["l0"]
    assert len(recording.calls["l0"]) == 2
    for signal, grads in expected.signals.items():
        close(found.signals[signal], grads)


def test_calls_that_start_afresh_join_along_batch_and_are_padded_with_zeros():
    model, x = small(), inputs()
    with lx.record(model, grad=True) as recording:
        outputs = [model(x[:2, :3])[0], model(x[2:])[0]]
    found = recording.gradients(sum(map(weighted, outputs)))["l0"]
    parts = [whole_of(model, part)["l0"] for part in (x[:2, :3], x[2:])]
    assert found.valid.sum(1).tolist() == [3, 3, 5]
    for signal, grads in found.signals.items():
        close(grads[:2, :3], parts[0].signals[signal])
        close(grads[2:], parts[1].signals[signal])
        assert not grads[:2, 3:].any()


def test_a_state_that_is_detached_between_calls_cuts_the_gradients():
    model, x = small(), inputs()
    with lx.record(model, grad=True) as recording:
        _, state = model(x[:, :2])
        output, _ = model(x[:, 2:], tuple(one.detach() for one in state))
    grads = recording.gradients(weighted(output))["l0"].cell_state
    assert grads.shape == (3, 5, 3) and not grads[:, :2].any() and (grads[:, 2:] != 0).all()


def test_gradients_are_put_back_in_order_with_their_sequences():
    model, x, order = small(), inputs(), torch.tensor([2, 0, 1])
    back = torch.argsort(order)
    with lx.record(model, grad=True) as recording:
        first = model(x)[0]
        recording.reorder([0, 1, 2])
        second = model(x[order])[0]
        recording.reorder(back)
    found, expected = recording.gradients(weighted(first) + weighted(second[back]))["l0"], whole_of(model, x)["l0"]
    for signal, grads in expected.signals.items():
        close(found.signals[signal], torch.cat([grads, grads]))


@pytest.mark.parametrize("kind", LAYERS)
def test_dropout_between_the_layers_is_the_one_of_the_pass_that_ran(kind):
    model, x = model_of(kind).train(), inputs().requires_grad_()
    model.dropout = 0.5
    found = []
    for grad in (None, False, True):
        torch.manual_seed(1)
        if grad is None:
            output, _ = model(x)
        else:
            with lx.record(model, grad=grad) as recording:
                output, _ = model(x)
        if grad:
            signals = recording.gradients(weighted(output), retain_graph=True)
        found.append((output, torch.get_rng_state(), torch.autograd.grad(weighted(output), [x, *model.parameters()])))
    for output, random, gradients in found[1:]:
        assert torch.equal(output, found[0][0]) and torch.equal(random, found[0][1])
        for one, plain in zip(gradients, found[0][2], strict=True):
            close(one, plain)
    # What was dropped of a hidden state is neither read above nor in the loss: only its own layer's next step depends on it.
    assert (signals["l0"].hidden_state[:, -1] == 0).any() and (signals["l1"].hidden_state != 0).any()


def test_what_the_loss_does_not_depend_on_has_gradients_of_zero():
    model = small(num_layers=2)
    with lx.record(model, grad=True) as recording:
        output, (_, c) = model(inputs())
        other = (torch.ones(1, requires_grad=True) * 2).sum()
    assert all(not grads.any() for one in recording.gradients(other).values() for grads in one.signals.values())
    early = recording.gradients(output[:, 1].sum(), retain_graph=True)
    assert all(not one.cell_state[:, 2:].any() and one.cell_state[:, :2].all() for one in early.values())
    below = recording.gradients(c[0].sum())
    assert not below["l1"].hidden_state.any() and below["l0"].cell_state.all() and not below["l0"].output_gate[:, -1].any()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_through_frozen_weights(kind):
    found = []
    for frozen in (False, True):
        model, x = model_of(kind).requires_grad_(not frozen), inputs()
        with lx.record(model, grad=True) as recording:
            output, _ = model(x)
        found.append(recording.gradients(weighted(output)))
        assert not x.requires_grad
    for name, one in found[0].items():
        for signal, grads in one.signals.items():
            close(found[1][name].signals[signal], grads)
            assert grads.abs().max() > 0


def test_retain_graph_keeps_the_graph_and_without_it_it_is_gone():
    model = small()
    with lx.record(model, grad=True) as recording:
        loss = weighted(model(inputs())[0])
    first = recording.gradients(loss, retain_graph=True)["l0"].cell_state
    assert torch.equal(recording.gradients(loss)["l0"].cell_state, first)
    assert "a backward pass has freed" in refused(InputError, lambda: recording.gradients(loss))
    with lx.record(model, grad=True) as recording:
        loss = weighted(model(inputs())[0])
    loss.backward()
    assert "before loss.backward(), or keep it with retain_graph" in refused(InputError, lambda: recording.gradients(loss))


def test_what_is_kept_says_which_layers_have_gradients_and_all_their_signals_do():
    model, x = small(num_layers=2), inputs()
    with lx.record(model, grad=True, layers="l1", signals="forget_gate", units=[1], dtype=torch.float16) as recording:
        output, _ = model(x)
    found, expected = recording.gradients(weighted(output)), whole_of(model, x)
    assert list(found) == ["l1"] and found["l1"].units is None
    for signal, grads in expected["l1"].signals.items():
        assert torch.equal(found["l1"].signals[signal], grads)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_under_autocast_is_refused(kind):
    model = model_of(kind, dtype=torch.float32)

    def call():
        with torch.autocast("cpu", dtype=torch.bfloat16), lx.record(model, grad=True):
            model(inputs(dtype=torch.float32))

    assert "autocast" in refused(RecordingError, call)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", KINDS)
def test_without_gradients_there_is_a_recording_and_no_graph(kind, mode):
    model = model_of(kind)
    with mode(), lx.record(model, grad=True) as recording:
        output, _ = model(inputs())
    assert recording.certificate.state == "certified" and not output.requires_grad
    assert "lx.record(model, grad=True)" in refused(InputError, lambda: recording.gradients(torch.ones((), requires_grad=True) * 2))


def test_an_output_beside_the_states_is_refused_as_its_gradients_could_not_be_followed():
    cell, zeros = randomise(CoupledLSTMCell(2, 3)), torch.zeros(1, 3)
    with registered(CoupledLSTMCell, coupled), lx.record(cell, grad=True):
        assert "an output of its own from CoupledLSTMCell" in refused(RecordingError, lambda: cell(torch.zeros(1, 2), zeros, zeros))
        with torch.no_grad():
            cell(torch.zeros(1, 2), zeros, zeros)


@pytest.mark.parametrize(
    ("loss_of", "words"),
    [
        (lambda output: output, "shape (3, 5, 3)"),
        (lambda output: output.sum().detach(), "requires_grad=False"),
        (lambda output: 3.0, "got float"),
        (lambda output: torch.ones(2, requires_grad=True).sum(0, keepdim=True).expand(2), "shape (2,)"),
    ],
    ids=["many_numbers", "detached", "float", "vector"],
)
def test_a_loss_that_is_not_one_number_with_a_graph_is_refused(loss_of, words):
    model = small()
    with lx.record(model, grad=True) as recording:
        output, _ = model(inputs())
    assert words in refused(InputError, lambda: recording.gradients(loss_of(output)))


def test_a_recording_without_its_graph_is_refused():
    model = small()
    with lx.record(model) as recording:
        output, _ = model(inputs())
    for one in (recording, lx.Recording(["lstm"])):
        assert "lx.record(model, grad=True)" in refused(InputError, lambda one=one: one.gradients(output.sum()))
