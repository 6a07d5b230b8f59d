"""Train a bundled network from nothing: ``python -m lstm_explain.studies.python_source.train --out DIRECTORY``.

``--recurrent lstm`` trains the stock one, in the same way and with the same price on forgetting, by the same compiled kernels.

Text runs through the network in `BATCH` parallel streams, 128 characters at a time, and the state carries over from one piece
to the next, 16 times (truncated backpropagation through time: Williams & Peng 1990). AdamW with one learning-rate cycle (Smith & Topin
2019). A run that was interrupted goes on where its last checkpoint was, with the same command; the result is the same as
without the interruption.
"""

import argparse
import hashlib
import io
import json
import math
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save as safetensors_bytes
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, softplus
from tqdm import tqdm

import lstm_explain
from lstm_explain.errors import InputError, LstmExplainError, OutputError
from lstm_explain.nn.equations import Form
from lstm_explain.nn.layers import LayerRun, run_layers
from lstm_explain.nn.lstm import PeepholeLSTM
from lstm_explain.studies import python_source
from lstm_explain.studies.python_source import baselines, model
from lstm_explain.studies.python_source.corpus import START_OF_FILE, Corpus, SourceFile, load, stream
from lstm_explain.studies.python_source.model import HIDDEN, LAYERS, CharacterModel, Recurrent

BATCH, TIME = 64, 128
LEARNING_RATE, WEIGHT_DECAY, CLIP = 4e-3, 0.01, 1.0
FORGET_BIAS = 2.0
WARM_UP = 0.1
"""The share of the run over which the rate rises, and in which each piece starts from a fresh state."""
CARRIED = 16
"""Later the state is fresh again after so many pieces."""
PEEPHOLE_RATE = 0.05
"""Peepholes start at zero and learn at this share of the rate.

A cell that its own gates see can drive itself up, and AdamW moves every weight by about the rate, whatever the size of the cell states
that it meets: at the full rate cell states ran into the hundreds while the network had learned little else.
"""
PRICE, FREE = 0.2, math.log(2)
"""What forgetting costs: nats for each nat that a unit's forget gate takes per step, on average, beyond the free ones; a mean over units.

A cell may reset at any step; only one that keeps less than half of its content per step on (geometric) average pays. Without it the
network gets rid of cell states that ran away by forgetting, and keeps doing so: up to one forget gate in five ended below 0.1 for
more than half the time. With a price on every nat of forgetting nearly all gates ended above 0.9 instead.
"""
EVERY = 250
PIECE = 2048
"""Held-out files are read in pieces of this many characters, each from a fresh state."""
FIRST = 8
"""Of so many the card has the loss by itself, for a check that takes a second."""


def write(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it into it, so that an interruption leaves the old one or none."""
    aside = path.with_suffix(".tmp")
    aside.write_bytes(data)
    os.replace(aside, path)


def streams(files: tuple[SourceFile, ...], epoch: int, seed: int) -> NDArray[np.uint8]:
    """One epoch's text as ``(BATCH, characters)``: the files in an order drawn from the seed and the epoch."""
    order = np.random.default_rng([seed, epoch]).permutation(len(files))
    text = stream([files[at] for at in order])
    return text[: len(text) // BATCH * BATCH].reshape(BATCH, -1)


def pieces(files: tuple[SourceFile, ...]) -> tuple[Tensor, Tensor]:
    """Held-out text as symbols ``(piece, PIECE + 1)``, each behind `START_OF_FILE`, and the pieces' lengths."""
    rows, lengths = [], []
    for file in files:
        text = stream([file])[1:]
        for begin in range(0, len(text), PIECE):
            part = text[begin : begin + PIECE]
            rows.append(np.pad(np.concatenate([[START_OF_FILE], part]), (0, PIECE - len(part))))
            lengths.append(len(part))
    return torch.from_numpy(np.stack(rows)).long(), torch.tensor(lengths)


@torch.no_grad()
def nats_per_character(model: CharacterModel, files: tuple[SourceFile, ...], at_most: int | None = None) -> float:
    """Mean loss over held-out text, each piece of `PIECE` characters from a fresh state."""
    symbols, lengths = pieces(files)
    if at_most is not None:
        symbols, lengths = symbols[:at_most], lengths[:at_most]
    total = 0.0
    for rows, n in zip(symbols.split(BATCH), lengths.split(BATCH), strict=True):
        losses = cross_entropy(model(rows[:, :-1]).transpose(1, 2), rows[:, 1:], reduction="none")
        total += float((losses * (torch.arange(PIECE) < n.unsqueeze(1))).sum(dtype=torch.float64))
    return total / int(lengths.sum())


def _forgetting(layers: list[LayerRun]) -> Tensor:
    """The mean over units and layers of what -ln f, averaged over steps, exceeds `FREE` by.

    Its gradient reaches the forget gates' own weights only, of units that pay: for the others nothing is computed again.
    """
    prices = []
    for layer in layers:
        pays = layer.saved.gates[:, 1].log().mean(0) < -FREE
        W_x, W_h, b_x, b_h, W_c, _ = (None if weight is None else weight.chunk(4)[1][pays] for weight in layer.weights)
        assert W_x is not None and W_h is not None and b_x is not None and b_h is not None
        seen = [(state, W) for state, W in zip(layer.seen(), (W_h, W_c), strict=True) if W is not None]
        states, W = (torch.cat(parts, dim=1) for parts in zip(*seen, strict=True))
        z = linear(layer.x.detach(), W_x, b_x + b_h) + linear(states, W)
        prices.append((softplus(-z).mean(0) - FREE).sum() / len(pays))
    return torch.stack(prices).mean()


class Run:
    """The state of a training run: everything that a checkpoint holds."""

    def __init__(self, corpus: Corpus, steps: int, seed: int, recurrent: Recurrent = "peephole") -> None:
        torch.manual_seed(seed)
        self.corpus, self.steps, self.seed, self.recurrent = corpus, steps, seed, recurrent
        self.model = CharacterModel(recurrent)
        self.form = self.model.lstm.form if isinstance(self.model.lstm, PeepholeLSTM) else Form(None)
        with torch.no_grad():
            for layer in range(LAYERS):
                for name, bias in (("bias_ih", FORGET_BIAS), ("bias_hh", 0.0)):
                    getattr(self.model.lstm, f"{name}_l{layer}")[HIDDEN : 2 * HIDDEN] = bias
        rates = [LEARNING_RATE] if self.form.peephole is None else [LEARNING_RATE, LEARNING_RATE * PEEPHOLE_RATE]
        groups: list[list[Tensor]] = [[] for _ in rates]
        for name, parameter in self.model.named_parameters():
            groups["weight_ch" in name].append(parameter)
        self.optimiser = torch.optim.AdamW([{"params": group} for group in groups], weight_decay=WEIGHT_DECAY)
        # OneCycleLR divides by the length of the rise less one step.
        rising = WARM_UP if WARM_UP * steps > 1 else 0.0
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, rates, total_steps=steps, pct_start=rising)
        self.step, self.epoch, self.at, self.seconds = 0, 0, 0, 0.0
        self.state: tuple[Tensor, Tensor] | None = None
        self.losses: list[float] = []
        self.curve: list[dict[str, float]] = []
        self.text = streams(corpus.train, 0, seed)
        if self.text.shape[1] <= TIME:
            raise InputError(f"needed {BATCH * (TIME + 1)} characters to train on, got {self.text.size} from {corpus.origin}")

    def _identity(self) -> dict[str, Any]:
        sizes = (model.EMBEDDING, model.HIDDEN, model.LAYERS, BATCH, TIME)
        rates = (LEARNING_RATE, WEIGHT_DECAY, CLIP, FORGET_BIAS, WARM_UP, PEEPHOLE_RATE, PRICE, FREE, CARRIED)
        asked = {"steps": self.steps, "seed": self.seed, "recurrent": self.recurrent}
        return {"corpus": self.corpus.digest("train"), **asked, "settings": [*sizes, *rates]}

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        kept = {name: getattr(self, name) for name in ("step", "epoch", "at", "seconds", "state", "losses", "curve")}
        kept |= {name: getattr(self, name).state_dict() for name in ("model", "optimiser", "schedule")}
        data = io.BytesIO()
        torch.save(kept | {"run": self._identity()}, data)
        write(path, data.getvalue())

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises
        ------
        InputError
            If the checkpoint can't be read or is another run's.
        """
        try:
            kept = torch.load(path, weights_only=True)
            run = kept["run"]
        except Exception as error:
            raise InputError(f"needed a checkpoint of this command in {path}, got a file that can't be read: remove it") from error
        if run != self._identity():
            raise InputError(f"{path} belongs to another run ({run}): use another --out, or remove it")
        try:
            for name in ("model", "optimiser", "schedule"):
                getattr(self, name).load_state_dict(kept[name])
            for name in ("step", "epoch", "at", "seconds", "state", "losses", "curve"):
                setattr(self, name, kept[name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(f"needed a whole checkpoint in {path}, got one with parts missing or of another shape: remove it") from error
        self.text = streams(self.corpus.train, self.epoch, self.seed)

    def advance(self) -> float:
        """One optimiser step; returns the loss in nats per character."""
        if self.at + TIME + 1 > self.text.shape[1]:
            self.epoch, self.at, self.state = self.epoch + 1, 0, None
            self.text = streams(self.corpus.train, self.epoch, self.seed)
        if self.step < WARM_UP * self.steps or self.at % (CARRIED * TIME) == 0:
            self.state = None
        piece = torch.from_numpy(self.text[:, self.at : self.at + TIME + 1]).long()
        run = run_layers(self.model.lstm, self.form, self.model.embedding(piece[:, :-1]), self.state)
        loss = cross_entropy(self.model.decoder(run.output).flatten(0, 1), piece[:, 1:].flatten())
        self.optimiser.zero_grad()
        (loss + PRICE * _forgetting(run.layers)).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimiser.step()
        self.schedule.step()
        self.state = (run.h_n.detach(), run.c_n.detach())
        self.step, self.at = self.step + 1, self.at + TIME
        return loss.item()


def train(run: Run, checkpoint: Path, quiet: bool) -> None:
    """Run to the end, with a checkpoint and a point of the loss curve every `EVERY` steps."""
    with tqdm(total=run.steps, initial=run.step, unit="step", disable=quiet, file=sys.stderr) as bar:
        began = time.monotonic() - run.seconds
        while run.step < run.steps:
            run.losses.append(run.advance())
            bar.update()
            if run.step % EVERY == 0 or run.step == run.steps:
                run.seconds = time.monotonic() - began
                point = {
                    "step": run.step,
                    "characters": run.step * BATCH * TIME,
                    "train": float(np.mean(run.losses)),
                    "validation": nats_per_character(run.model, run.corpus.validation, at_most=2 * BATCH),
                }
                run.losses.clear()
                run.curve.append(point)
                bar.set_postfix(train=f"{point['train']:.3f}", validation=f"{point['validation']:.3f}")
                run.save(checkpoint)


def other(recurrent: Recurrent, corpus: Corpus) -> dict[str, Any]:
    """How good the bundled network of the other kind is, where it was trained and graded on this text."""
    kind: Recurrent = "lstm" if recurrent == "peephole" else "peephole"
    known = python_source.card(kind)
    if any(known["text"]["sha256"][split] != corpus.digest(split) for split in ("train", "validation", "test")):
        return {"other": None, "other_none": "the other bundled network was trained on another text"}
    nats, characters = known["nats_per_character"], known["training"]["characters"]
    return {"other": {"model": known["model"], "characters": characters} | {split: nats[split] for split in ("validation", "test")}}


def card(run: Run) -> dict[str, Any]:
    """What the network is, how it was trained, on which text, and how good it is beside two simple models and the other network."""
    corpus, peepholes = run.corpus, run.form.peephole is not None
    layers = f"PeepholeLSTM of {HIDDEN} units in its default form" if peepholes else f"torch.nn.LSTM of {HIDDEN} units"
    return {
        "model": f"embedding {model.EMBEDDING}, {LAYERS}-layer {layers}, linear decoder",
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "sha256": hashlib.sha256(safetensors_bytes(run.model.state_dict())).hexdigest(),
        "text": {
            "origin": corpus.origin,
            "sha256": {split: corpus.digest(split) for split in ("train", "validation", "test")},
            "files": {split: len(getattr(corpus, split)) for split in ("train", "validation", "test")},
            "characters": {split: sum(len(f.text) for f in getattr(corpus, split)) for split in ("train", "validation", "test")},
        },
        "training": {
            "seed": run.seed,
            "steps": run.steps,
            "characters": run.steps * BATCH * TIME,
            "batch": BATCH,
            "time": TIME,
            "optimiser": f"AdamW, one cycle to {LEARNING_RATE}, weight decay {WEIGHT_DECAY}, gradient norm at most {CLIP}; "
            f"fresh states in the first {WARM_UP:.0%}, then carried over {CARRIED * TIME} characters; "
            + (f"peepholes from zero, at {PEEPHOLE_RATE} of the rate; " if peepholes else "")
            + f"forget bias {FORGET_BIAS} at first",
            "price_on_forgetting": f"{PRICE} x mean over units of max(0, mean over steps of -ln f, less ln 2), added to the loss",
            "seconds": round(run.seconds),
            "threads": torch.get_num_threads(),
            "curve": run.curve,
        },
        "nats_per_character": {
            "read": f"whole held-out files in pieces of {PIECE} characters, each from a fresh state",
            "validation": nats_per_character(run.model, corpus.validation),
            "test": nats_per_character(run.model, corpus.test),
            "first": {"pieces": FIRST, "validation": nats_per_character(run.model, corpus.validation, at_most=FIRST)},
            "ngram": baselines.ngram(corpus),
            "lzma": baselines.lzma_nats(corpus),
            **other(run.recurrent, corpus),
        },
        "versions": {
            "lstm_explain": lstm_explain.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lstm_explain.studies.python_source.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory for checkpoint.pt, weights.safetensors and card.json")
    parser.add_argument(
        "--recurrent", choices=get_args(Recurrent), default="peephole", help="PeepholeLSTM, or torch.nn.LSTM (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=13_000, help=f"optimiser steps of {BATCH} x {TIME} characters (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    arguments = parser.parse_args(argv)
    if arguments.steps < 1:
        parser.error(f"--steps needs a positive number, got {arguments.steps}")
    if not 0 <= arguments.seed < 2**63:
        parser.error(f"--seed needs a number from 0 to 2**63 - 1, got {arguments.seed}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    checkpoint = arguments.out / "checkpoint.pt"
    try:
        try:
            arguments.out.mkdir(parents=True, exist_ok=True)
            run = Run(load(), arguments.steps, arguments.seed, arguments.recurrent)
            if checkpoint.exists():
                run.resume(checkpoint)
            train(run, checkpoint, arguments.quiet)
            write(arguments.out / "weights.safetensors", safetensors_bytes(run.model.state_dict()))
            write(arguments.out / "card.json", (json.dumps(card(run), indent=1) + "\n").encode())
        except OSError as error:
            raise OutputError(f"can't write to {arguments.out}: {error.strerror or error}") from error
    except LstmExplainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4 if isinstance(error, OutputError) else 3
    except KeyboardInterrupt:
        where = f"the same command goes on from {checkpoint}" if checkpoint.exists() else "there is no checkpoint yet"
        print(f"interrupted: {where}", file=sys.stderr)
        return 130
    print(arguments.out / "weights.safetensors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
