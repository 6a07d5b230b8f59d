"""What becomes of an attribution when the model's weights are drawn anew, part by part, gate by gate.

An attribution that stays as it is when the weights it should speak of are gone speaks of something else: of the input, or of the
architecture (Adebayo et al. 2018). Recurrent layers are taken apart further than that: a gate is a block of rows of a layer's weights.
"""

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lstm_explain.analyses.ablation.intervals import Intervals
from lstm_explain.analyses.attribution.result import AttributionResult
from lstm_explain.analyses.probing.untrained import untrained
from lstm_explain.errors import InputError
from lstm_explain.nn.lstm import PeepholeLSTM, PeepholeLSTMCell
from lstm_explain.verdicts.agreement import spearman
from lstm_explain.verdicts.faithfulness.claims import over_sequences
from lstm_explain.verdicts.faithfulness.setting import Setting

SIMILAR = 0.5
"""A rank correlation below this leaves less than a quarter of the ranks' variance to what was there before."""
_WORDS = {
    "i": "input_gate",
    "f": "forget_gate",
    "g": "cell_candidate",
    "o": "output_gate",
    "r": "reset_gate",
    "z": "update_gate",
    "n": "candidate",
}


class _Rows(NamedTuple):
    """Some rows of a parameter; all of them where `rows` is None."""

    parameter: str
    rows: slice | None


@dataclass(frozen=True, eq=False)
class Randomisation:
    """How far attributions with weights drawn anew resemble those of the model, by rank over each sequence's steps.

    Attributes
    ----------
    parts : tuple of str ``(part,)``
        What was drawn anew, from the output to the input: modules, and within recurrent layers their gates.
    cascade : ndarray ``(part, batch)``
        Spearman's rank correlation with this part and all before it drawn anew; NaN where all of a sequence's attributions are equal.
    cascade_size : ndarray ``(part, batch)``
        The same of their sizes. Sizes often resemble each other only since recent steps count for more in any recurrent network.
    alone, alone_size : ndarray ``(part, batch)``
        With this part alone.
    anew, anew_size : ndarray ``(twin, batch)``
        With all parts drawn anew, several times: one network of random weights may happen to agree. The first is the cascade's last.
    moved : ndarray ``(part,)``
        With this part alone, the largest change of an attribution, as a share of the largest one: 0 where the part doesn't matter.
    means : mapping of str to Intervals
        Over sequences, for each part of the first four; for `anew` and `anew_size` of the mean over twins.
    """

    parts: tuple[str, ...]
    cascade: NDArray[np.float64]
    cascade_size: NDArray[np.float64]
    alone: NDArray[np.float64]
    alone_size: NDArray[np.float64]
    anew: NDArray[np.float64]
    anew_size: NDArray[np.float64]
    moved: NDArray[np.float64]
    means: dict[str, Intervals]


def parts_of(model: nn.Module) -> dict[str, list[_Rows]]:
    """What can be drawn anew by itself, the last module that was made first, the upper layers of a stack first."""
    of: dict[int, str] = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, list[_Rows]] = {}
    for path, module in reversed(list(model.named_modules())):
        blocks: dict[tuple[str, str], list[_Rows]] = {}
        for name, parameter in module.named_parameters(recurse=False):
            # Shared with a module nearer to the output, which had it drawn already.
            if id(parameter) in of:
                for layer, gate, rows in _blocks(module, path, name, len(parameter) if parameter.dim() else 0):
                    blocks.setdefault((layer, gate), []).append(_Rows(of[id(parameter)], rows))
                del of[id(parameter)]
        for layer, gate in sorted(blocks, key=lambda key: _depth(key[0]), reverse=True):
            found[".".join(filter(None, (layer, gate))) or "the model"] = blocks[layer, gate]
    return found


def _depth(layer: str) -> tuple[int, bool]:
    suffix = re.search(r"l(\d+)(_reverse)?$", layer)
    return (int(suffix[1]), suffix[2] is None) if suffix else (0, True)


def _blocks(module: nn.Module, path: str, parameter: str, rows: int) -> Iterator[tuple[str, str, slice | None]]:
    """The layer, gate and rows of each block of a parameter."""
    letters = _letters(module, parameter)
    suffix = re.search(r"_(l\d+(?:_reverse)?)$", parameter) if isinstance(module, (nn.RNNBase, PeepholeLSTM)) else None
    layer = ".".join(filter(None, (path, suffix[1] if suffix else "")))
    if parameter.startswith("weight_hr"):
        yield layer, "projection", None
    elif not letters:
        yield layer, "", None
    for at, letter in reversed(list(enumerate(letters))):
        size = rows // len(letters)
        yield layer, _WORDS[letter], slice(at * size, (at + 1) * size)


def _letters(module: nn.Module, parameter: str) -> str:
    """The gates of a parameter's blocks of rows, in order; none of what isn't in the layer's equations, or has rows of another kind."""
    if not re.match(r"(weight_(ih|hh|ch)|bias_(ih|hh))(_l\d|$)", parameter):
        return ""
    if isinstance(module, (PeepholeLSTM, PeepholeLSTMCell)):
        return module.form.peephole_rows if parameter.startswith("weight_ch") else "ifgo"
    if isinstance(module, (nn.LSTM, nn.LSTMCell)):
        return "ifgo"
    return "rzn" if isinstance(module, (nn.GRU, nn.GRUCell)) else ""


def randomisation(
    setting: Setting, model: nn.Module, was: AttributionResult, twins: int, group: NDArray[np.int64], times: NDArray[np.float64], seed: int
) -> Randomisation:
    """Draw a model's weights anew, part by part: all from the output down to here, and each alone.

    The model stays as it is; copies are changed, their new weights those that their own layers are initialised with.

    Raises
    ------
    InputError
        If a module can't be initialised anew, there is nothing to draw, or the attribution can't be made with other weights.
    """
    parts = parts_of(model)
    if not parts:
        raise InputError("needed a model with parameters, got none to draw anew")
    twin, cascade, alone = untrained(model, seed=seed), copy.deepcopy(model), copy.deepcopy(model)
    fresh, own = dict(twin.named_parameters()), dict(model.named_parameters())
    largest = float(np.abs(was.attributions).max())
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in ("cascade", "alone", "anew")}
    found |= {f"{name}_size": [] for name in found}
    moved = []

    def compare(name: str, changed: nn.Module) -> AttributionResult:
        result = setting.again(changed)
        found[name].append(spearman(was.by_step, result.by_step, was.valid))
        found[f"{name}_size"].append(spearman(np.abs(was.by_step), np.abs(result.by_step), was.valid))
        return result

    for rows in parts.values():
        _put(cascade, fresh, rows)
        compare("cascade", cascade)
        _put(alone, fresh, rows)
        gap = float(np.abs(compare("alone", alone).attributions - was.attributions).max())
        _put(alone, own, rows)
        moved.append(gap / largest if largest else gap)
    for name in ("anew", "anew_size"):
        found[name].append(found[name.replace("anew", "cascade")][-1])
    for other in range(1, twins):
        compare("anew", untrained(model, seed=seed + other))
    stacked = {name: np.stack(each) for name, each in found.items()}
    members = {name: _mean(each)[None] if name.startswith("anew") else each for name, each in stacked.items()}
    means = {name: over_sequences(each, group, times) for name, each in members.items()}
    return Randomisation(tuple(parts), **stacked, moved=np.array(moved), means=means)


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over twins where there is one: ``(batch,)``."""
    known = np.isfinite(values).sum(0)
    return np.where(known > 0, np.nansum(values, axis=0) / np.maximum(known, 1), np.nan)


def _put(model: nn.Module, values: dict[str, nn.Parameter], rows: list[_Rows]) -> None:
    """Give some rows of a model's parameters other values."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, some in rows:
            if some is None:
                parameters[name].copy_(values[name])
            else:
                parameters[name][some] = values[name][some]
