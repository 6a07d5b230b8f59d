"""`train`: what a step reads, an interruption that leaves no trace in the result, and refusals that leave none on the disk."""

import json
import math
import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from lstm_explain.nn.layers import run_layers
from lstm_explain.nn.lstm import PeepholeLSTM
from lstm_explain.studies.python_source import baselines, model, train
from lstm_explain.studies.python_source.corpus import START_OF_FILE, VOCABULARY, Corpus, SourceFile, encode, stream

STEPS = 40
SIZES = (model.EMBEDDING, model.HIDDEN, model.LAYERS)
SETTINGS = {"BATCH": 2, "TIME": 8, "EVERY": 5, "PIECE": 16, "CARRIED": 6}


def made_up(seed, lengths):
    rng = np.random.default_rng(seed)
    return tuple(SourceFile(f"{seed}{at}.py", "".join(rng.choice(list("ab (\n"), n))) for at, n in enumerate(lengths))


# 176 symbols in two streams of 88: ten steps to an epoch, so that some checkpoints lie at the very end of one.
CORPUS = Corpus(made_up(0, (60, 50, 63)), made_up(1, (40, 7)), made_up(2, (33,)), {}, "a test")


@pytest.fixture(autouse=True, scope="module")
def small():
    """A tiny network on a tiny corpus; the signal's handler is put back."""
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setattr(train, name, value)
        for home in (model, train):
            patch.setattr(home, "EMBEDDING", 4, raising=False)
            patch.setattr(home, "HIDDEN", 6, raising=False)
        patch.setattr(train, "load", lambda: CORPUS)
        # It sets up hundreds of megabytes for each call, and has its own test.
        patch.setattr(baselines, "lzma_nats", lambda corpus: {"validation": 1.0, "test": 1.0})
        yield
    signal.signal(signal.SIGTERM, handler)


def command(out, *more, steps=STEPS, seed=0):
    return train.main(["--out", str(out), "--steps", str(steps), "--seed", str(seed), "--quiet", *more])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    assert command(out) == 0
    return out


def interrupt_after(monkeypatch, step, how):
    advance = train.Run.advance

    def advance_and_stop(run):
        loss = advance(run)
        if run.step == step:
            monkeypatch.setattr(train.Run, "advance", advance)
            how()
        return loss

    monkeypatch.setattr(train.Run, "advance", advance_and_stop)


def interrupt():
    raise KeyboardInterrupt


def assert_same_result(one, other):
    assert (one / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()
    cards = [json.loads((folder / "card.json").read_text(encoding="utf-8")) for folder in (one, other)]
    for card in cards:
        del card["training"]["seconds"]
    assert cards[0] == cards[1]
    assert [point["step"] for point in cards[0]["training"]["curve"]] == list(range(5, STEPS + 1, 5))


@pytest.mark.parametrize("step", [1, 4, 7, 10, 11, 22, STEPS])
def test_a_run_that_is_interrupted_and_resumed_ends_as_one_that_was_not(step, whole, tmp_path, monkeypatch, capsys):
    interrupt_after(monkeypatch, step, interrupt)
    assert command(tmp_path) == 130
    assert contents(tmp_path).keys() <= {"checkpoint.pt"}
    printed = capsys.readouterr()
    assert printed.out == ""
    where = f"the same command goes on from {tmp_path / 'checkpoint.pt'}" if step > 4 else "there is no checkpoint yet"
    assert printed.err == f"interrupted: {where}\n"
    assert command(tmp_path) == 0
    assert_same_result(tmp_path, whole)


def test_a_run_that_is_interrupted_again_and_again_ends_as_one_that_was_not(whole, tmp_path, monkeypatch):
    for step in (6, 9, 12, 27, 28):
        interrupt_after(monkeypatch, step, interrupt)
        assert command(tmp_path) == 130
    assert command(tmp_path) == 0
    assert_same_result(tmp_path, whole)


def test_a_run_that_is_told_to_terminate_stops_and_goes_on_like_any_other(whole, tmp_path, monkeypatch):
    interrupt_after(monkeypatch, 17, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert command(tmp_path) == 130
    assert command(tmp_path) == 0
    assert_same_result(tmp_path, whole)


def test_an_interruption_before_a_checkpoint_is_in_its_place_leaves_the_one_before(whole, tmp_path, monkeypatch):
    interrupt_after(monkeypatch, 12, interrupt)
    assert command(tmp_path) == 130
    before = contents(tmp_path)["checkpoint.pt"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *paths: interrupt())
        assert command(tmp_path) == 130
    assert contents(tmp_path)["checkpoint.pt"] == before
    assert command(tmp_path) == 0
    assert_same_result(tmp_path, whole)
    assert contents(tmp_path).keys() == contents(whole).keys()


def test_a_finished_run_is_not_trained_again(whole, tmp_path, monkeypatch):
    (tmp_path / "checkpoint.pt").write_bytes((whole / "checkpoint.pt").read_bytes())
    monkeypatch.setattr(train.Run, "advance", interrupt)
    assert command(tmp_path) == 0
    assert_same_result(tmp_path, whole)


def test_what_is_drawn_elsewhere_does_not_change_a_run(whole, tmp_path, monkeypatch):
    interrupt_after(monkeypatch, 12, interrupt)
    torch.rand(3)
    assert command(tmp_path) == 130
    torch.rand(5)
    assert command(tmp_path) == 0
    assert_same_result(tmp_path, whole)


def test_another_seed_gives_another_network(whole, tmp_path):
    assert command(tmp_path, seed=1) == 0
    assert contents(tmp_path)["weights.safetensors"] != contents(whole)["weights.safetensors"]


def assert_refused(out, code, *message, capsys, **run):
    capsys.readouterr()
    before = contents(out)
    assert command(out, **run) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and printed.err.endswith("\n")
    for part in message:
        assert part in printed.err
    assert contents(out) == before


@pytest.mark.parametrize("run", [{"seed": 1}, {"steps": STEPS + 1}])
def test_the_checkpoint_of_another_run_is_refused(run, tmp_path, monkeypatch, capsys):
    interrupt_after(monkeypatch, 6, interrupt)
    command(tmp_path)
    assert_refused(tmp_path, 3, str(tmp_path / "checkpoint.pt"), "another run", "--out", capsys=capsys, **run)


def test_the_checkpoint_of_a_run_on_another_text_is_refused(tmp_path, monkeypatch, capsys):
    interrupt_after(monkeypatch, 6, interrupt)
    command(tmp_path)
    monkeypatch.setattr(train, "load", lambda: CORPUS._replace(train=CORPUS.train[:2]))
    assert_refused(tmp_path, 3, "another run", capsys=capsys)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(share, whole, tmp_path, capsys):
    checkpoint = (whole / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(checkpoint[: int(share * len(checkpoint))])
    assert_refused(tmp_path, 3, str(tmp_path / "checkpoint.pt"), "needed a checkpoint", "got", "remove it", capsys=capsys)


class Foreign:
    """What only a pickle that runs code could bring back."""

    def __reduce__(self):
        return os.mkdir, ("never",)


@pytest.mark.parametrize("kept", [[1, 2], {"step": 3}, {"run": Foreign()}, None])
def test_a_file_that_is_no_checkpoint_is_refused_and_runs_nothing(kept, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(kept, tmp_path / "checkpoint.pt")
    assert_refused(tmp_path, 3, "needed a checkpoint", capsys=capsys)


@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
def test_a_place_that_is_a_file_is_refused(below, tmp_path, capsys):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    assert command(tmp_path / "file" / below) == 4
    assert contents(tmp_path) == {"file": b"mine"}
    printed = capsys.readouterr()
    assert printed.err.startswith("error: can't write to ") and printed.err.count("\n") == 1
    assert str(tmp_path / "file") in printed.err


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--steps", "-3"], ["--steps", "many"], ["--seed", "0.5"], ["--nonsense"]])
def test_a_wrong_argument_is_a_usage_error_before_anything_is_written(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["--out", str(tmp_path / "out"), "--quiet", *arguments])
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err
    assert contents(tmp_path) == {}


def test_the_directory_is_made_and_the_last_line_says_where_the_weights_are(tmp_path, capsys):
    out = tmp_path / "deep" / "down"
    assert command(out, steps=3) == 0
    assert contents(out).keys() == {"checkpoint.pt", "weights.safetensors", "card.json"}
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (f"{out / 'weights.safetensors'}\n", "")


def test_the_card_s_figures_are_those_of_the_weights_beside_it(whole):
    card = json.loads((whole / "card.json").read_text(encoding="utf-8"))
    network = model.CharacterModel()
    network.load_state_dict(load_file(whole / "weights.safetensors"))
    for side in ("validation", "test"):
        expected = train.nats_per_character(network, getattr(CORPUS, side))
        assert card["nats_per_character"][side] == pytest.approx(expected, abs=1e-6)
    assert card["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert card["text"]["sha256"]["train"] == CORPUS.digest("train")
    assert card["text"]["characters"] == {"train": 173, "validation": 47, "test": 33}
    curve = card["training"]["curve"]
    assert [point["characters"] for point in curve] == [point["step"] * 2 * 8 for point in curve]
    assert curve[-1]["train"] < curve[0]["train"]


def test_the_loss_of_held_out_text_is_the_mean_over_its_characters_each_piece_read_alone():
    network = train.Run(CORPUS, STEPS, 0).model
    losses = []
    for file in CORPUS.validation:
        for begin in range(0, len(file.text), 16):
            piece = torch.tensor([[START_OF_FILE, *encode(file.text[begin : begin + 16])]])
            losses += cross_entropy(network(piece[:, :-1])[0], piece[0, 1:], reduction="none").tolist()
    assert len(losses) == 47
    assert train.nats_per_character(network, CORPUS.validation) == pytest.approx(np.mean(losses), abs=1e-6)
    assert train.nats_per_character(network, CORPUS.validation, at_most=2) == pytest.approx(np.mean(losses[:32]), abs=1e-6)


def test_an_epoch_reads_each_file_once_in_an_order_of_its_own():
    text = stream(CORPUS.train)
    epochs = [train.streams(CORPUS.train, epoch, seed) for seed in (0, 1) for epoch in range(6)]
    for streams in epochs:
        assert streams.shape == (2, len(text) // 2)
        assert sorted(streams.ravel()) == sorted(text)
    assert len({streams.tobytes() for streams in epochs[:6]}) > 1
    assert [streams.tobytes() for streams in epochs[:6]] != [streams.tobytes() for streams in epochs[6:]]
    assert np.array_equal(train.streams(CORPUS.train, 3, 1), epochs[9])


def test_a_piece_begins_afresh_until_the_warm_up_is_over_and_then_after_so_many_pieces_and_with_an_epoch(monkeypatch):
    monkeypatch.setattr(train, "LEARNING_RATE", 0.0)
    run = train.Run(CORPUS, STEPS, 0)
    losses = [run.advance() for _ in range(20)]

    def read(epoch, first, last):
        """Mean loss of the pieces `first` to `last` of an epoch, read in one go from a fresh state."""
        text = torch.from_numpy(train.streams(CORPUS.train, epoch, 0)[:, 8 * first : 8 * last + 1]).long()
        return cross_entropy(run.model(text[:, :-1]).transpose(1, 2), text[:, 1:]).item()

    assert losses[:4] == pytest.approx([read(0, at, at + 1) for at in range(4)], abs=1e-6)
    assert np.mean(losses[3:6]) == pytest.approx(read(0, 3, 6), abs=1e-6)
    assert np.mean(losses[6:10]) == pytest.approx(read(0, 6, 10), abs=1e-6)
    assert np.mean(losses[10:16]) == pytest.approx(read(1, 0, 6), abs=1e-6)
    assert np.mean(losses[16:20]) == pytest.approx(read(1, 6, 10), abs=1e-6)


def test_cells_start_by_remembering():
    network = train.Run(CORPUS, STEPS, 0).model
    for layer in range(model.LAYERS):
        biases = getattr(network.lstm, f"bias_ih_l{layer}") + getattr(network.lstm, f"bias_hh_l{layer}")
        assert (biases.detach().chunk(4)[1] == train.FORGET_BIAS).all()


def test_peepholes_start_at_zero_and_learn_at_their_share_of_the_rate():
    run = train.Run(CORPUS, STEPS, 0)
    peepholes = [parameter for name, parameter in run.model.named_parameters() if "weight_ch" in name]
    assert len(peepholes) == model.LAYERS and not any(peephole.any() for peephole in peepholes)
    rates = [group["lr"] for group in run.optimiser.param_groups]
    assert run.optimiser.param_groups[1]["params"] == peepholes and rates[1] == pytest.approx(train.PEEPHOLE_RATE * rates[0])
    run.advance()
    assert all(peephole.any() for peephole in peepholes)


def test_the_network_is_the_one_that_the_card_describes(whole):
    assert SIZES == (64, 192, 2)
    described = json.loads((whole / "card.json").read_text(encoding="utf-8"))["model"]
    assert described == "embedding 4, 2-layer PeepholeLSTM of 6 units in its default form, linear decoder"
    network = model.CharacterModel()
    assert isinstance(network.lstm, PeepholeLSTM)
    assert network.lstm.weight_ch_l1.shape == (4 * 6, 6)
    assert network.decoder.out_features == network.embedding.num_embeddings == VOCABULARY


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11, 20])
def test_any_number_of_steps_can_be_asked_for(steps, tmp_path):
    assert command(tmp_path, steps=steps) == 0


@pytest.mark.parametrize("seed", [-1, 2**70])
def test_a_seed_that_torch_cannot_take_is_a_usage_error(seed, tmp_path):
    with pytest.raises(SystemExit) as refused:
        command(tmp_path / "out", seed=seed)
    assert refused.value.code == 2 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.tmp", "checkpoint.tmp", "card.json"])
def test_a_file_that_cannot_be_written_is_one_line(name, tmp_path, capsys):
    (tmp_path / name).mkdir()
    assert command(tmp_path, steps=5) == 4
    assert capsys.readouterr().err.count("\n") == 1


def test_a_corpus_with_nothing_to_train_on_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "load", lambda: CORPUS._replace(train=()))
    assert command(tmp_path) == 3
    assert "needed 18 characters to train on, got 0 from a test" in capsys.readouterr().err


def test_a_checkpoint_with_parts_missing_is_refused(tmp_path, capsys):
    torch.save({"run": train.Run(CORPUS, STEPS, 0)._identity()}, tmp_path / "checkpoint.pt")
    assert command(tmp_path) == 3
    assert "parts missing" in capsys.readouterr().err


def test_a_checkpoint_of_other_settings_is_refused(tmp_path, monkeypatch, capsys):
    interrupt_after(monkeypatch, 6, interrupt)
    assert command(tmp_path) == 130
    for setting in ("LEARNING_RATE", "FORGET_BIAS", "PEEPHOLE_RATE", "CARRIED"):
        with monkeypatch.context() as patch:
            patch.setattr(train, setting, 1)
            assert command(tmp_path) == 3
        assert "another run" in capsys.readouterr().err


def test_forgetting_costs_what_a_unit_takes_beyond_a_half_on_average_and_its_gradient_reaches_forget_gates_only():
    torch.manual_seed(0)
    layer = PeepholeLSTM(3, 5, 2)
    torch.nn.init.normal_(layer.weight_ch_l1)
    with torch.no_grad():
        layer.bias_ih_l0[5:10] = layer.bias_ih_l1[5:10] = torch.tensor([-2.0, 3.0, -1.0, 4.0, -3.0])
    run = run_layers(layer, layer.form, torch.randn(7, 4, 3))
    price = train._forgetting(run.layers)
    nats = torch.stack([-recorded.saved.gates[:, 1].log().mean(0) for recorded in run.layers])
    free = nats < math.log(2)
    assert free.any() and not free.all()
    torch.testing.assert_close(price, (nats - math.log(2)).clamp(min=0).mean())
    price.backward()
    for name, parameter in layer.named_parameters():
        before, forget, *after = parameter.grad.chunk(4)
        assert forget.abs().max() > 0 and not any(part.any() for part in (before, *after)), name
        rows = free[int(name[-1])]
        assert not forget[rows].any() and forget[~rows].any(1 if forget.dim() > 1 else 0).all(), name


def test_the_loss_that_is_reported_is_without_the_price(monkeypatch):
    plain = train.Run(CORPUS, STEPS, 0).advance()
    monkeypatch.setattr(train, "_forgetting", lambda layers: torch.full((), 100.0))
    assert train.Run(CORPUS, STEPS, 0).advance() == plain
