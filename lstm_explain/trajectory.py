"""`Trajectory` and `Recording`: the one labelled structure that everything upstairs speaks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lstm_explain.display import table
from lstm_explain.errors import InputError
from lstm_explain.nn.equations import Form

GATES = ("input_gate", "forget_gate", "output_gate")
SIGNALS = ("input_gate", "forget_gate", "cell_candidate", "output_gate", "cell_state", "hidden_state")

Padding = Literal["none", "known", "unknown"]
"""What is known of padding: no sequence ends early; where each ends is known; or a padded batch came without lengths."""


def together(paddings: Iterable[Padding]) -> Padding:
    """What is known of the padding of several parts taken together."""
    parts = set(paddings)
    return "unknown" if "unknown" in parts else "known" if "known" in parts else "none"


def checked_lengths(lengths: Tensor | Sequence[int], batch: int, time: int) -> Tensor:
    """How many steps of each sequence are real, as a tensor ``(batch,)``.

    Raises
    ------
    InputError
        If they aren't whole numbers from 1 to `time`, one for each sequence.
    """
    try:
        whole = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"needed lengths as whole numbers, one for each sequence, got {lengths!r}") from None
    if whole.shape != (batch,) or whole.is_floating_point() or whole.dtype == torch.bool:
        raise InputError(f"needed lengths as {batch} whole numbers, one for each sequence, got {whole.tolist()}")
    if bool((whole < 1).any() | (whole > time).any()):
        bad = int(((whole < 1) | (whole > time)).nonzero()[0])
        raise InputError(f"needed lengths from 1 to {time}, got {int(whole[bad])} for sequence {bad}")
    return whole


@dataclass(frozen=True, eq=False, repr=False)
class Trajectory:
    """What one layer, in one direction, computed at every step.

    Signals are attributes by name: ``input_gate``, ``forget_gate``, ``cell_candidate``, ``output_gate``, ``cell_state`` and
    ``hidden_state``; each is a detached tensor ``(batch, time, unit)`` on the model's device, in the order of the input
    whatever the layer's layout or direction. The last axis of ``hidden_state`` is the projection where there is one.

    Attributes
    ----------
    name : str
        The layer's key in its recording.
    kind : {"lstm", "peephole_lstm"}
    signals : mapping of str to Tensor ``(batch, time, unit)``
    valid : Tensor of bool ``(batch, time)``
        True at the steps that belong to a sequence. Nothing else enters a statistic.
    padding : {"none", "known", "unknown"}
    initial_hidden_state, initial_cell_state : Tensor ``(batch, unit)``
    first_step : Tensor of int ``(batch,)``
        The step that each sequence's reading began with: 0, or where the reverse direction started.
    reverse : bool
        Whether the layer read from the last step to the first.
    form : Form
        Which equations: the peepholes and their wiring.
    weights : mapping of str to Tensor
        The weights that the trajectory's own equations need: ``weight_ch`` and ``weight_hr`` where the layer has them.
    """

    name: str
    kind: Literal["lstm", "peephole_lstm"]
    signals: Mapping[str, Tensor]
    valid: Tensor
    padding: Padding
    initial_hidden_state: Tensor
    initial_cell_state: Tensor
    first_step: Tensor
    reverse: bool
    form: Form
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes = {name: tuple(signal.shape) for name, signal in self.signals.items()}
        fits = all(len(shape) == 3 and shape[:2] == tuple(self.valid.shape) for shape in shapes.values())
        if set(shapes) != set(SIGNALS) or not fits or len({shapes[name] for name in SIGNALS[:5]}) > 1:
            given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise InputError(f"needed {', '.join(SIGNALS)}, each (batch, time, unit) = {tuple(self.valid.shape)} + (unit,), got {given}")

    def __getattr__(self, name: str) -> Tensor:
        if name in SIGNALS:
            return self.signals[name]
        raise AttributeError(f"a trajectory has no {name!r}; its signals are {', '.join(SIGNALS)}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *SIGNALS]

    def steps(self, signal: str) -> Tensor:
        """One signal at the valid steps only: ``(step, unit)``, sequence after sequence."""
        return self.signals[signal][self.valid]

    def select(self, sequences: Sequence[int]) -> "Trajectory":
        """Some of the sequences, in the order given."""
        rows = list(sequences)
        return replace(
            self,
            signals={name: signal[rows] for name, signal in self.signals.items()},
            valid=self.valid[rows],
            initial_hidden_state=self.initial_hidden_state[rows],
            initial_cell_state=self.initial_cell_state[rows],
            first_step=self.first_step[rows],
        )

    def before(self, signal: Literal["cell_state", "hidden_state"]) -> Tensor:
        """The state that each step started from: ``(batch, time, unit)``."""
        state = self.signals[signal]
        initial = self.initial_cell_state if signal == "cell_state" else self.initial_hidden_state
        edge = torch.zeros_like(state[:, :1])
        shifted = torch.cat([state[:, 1:], edge] if self.reverse else [edge, state[:, :-1]], dim=1)
        shifted[torch.arange(len(state), device=state.device), self.first_step] = initial
        return shifted

    def residual(self) -> float:
        """How far the signals are from c_t = f c_{t-1} + i g and h_t = o tanh(c_t), and gates from 0..1, at the worst valid step.

        True of every LSTM; a swapped pair of names breaks it: i and g, which only meet as a product, by a candidate below 0.
        """
        i, f, g, o, c, h = (self.signals[name] for name in SIGNALS)
        m = o * torch.tanh(c)
        W_r = self.weights.get("weight_hr")
        sides = ((c, f * self.before("cell_state") + i * g), (h, m if W_r is None else m @ W_r.T))
        ranges = tuple((gate, gate.clamp(0, 1)) for gate in (i, f, o))
        return max(self._residual(left, right) for left, right in sides + ranges)

    def _residual(self, left: Tensor, right: Tensor) -> float:
        # NaN on both sides is agreement: the network, not the recording, is to blame for it.
        counts = self.valid.unsqueeze(2) & (left.isfinite() | right.isfinite())
        return float((left - right).abs_().nan_to_num_(nan=torch.inf).where(counts, 0.0).max())

    def __repr__(self) -> str:
        batch, time, units = self.cell_state.shape
        return f"<Trajectory {self.name!r}: {self.kind}, batch {batch}, time {time}, {units} units, padding {self.padding}>"


class CallCheck(NamedTuple):
    """The check of one call of one module: recomputed against returned, and every recorded value against the equations.

    Differences are the largest absolute ones; ``scale`` is the largest absolute value compared; ``tolerance`` is what a
    difference may be at that scale in that dtype. ``nonfinite`` counts NaN and infinite values in the call's output; they
    must stand at the same places in both, and are left out of the differences.
    """

    module: str
    call: int
    output: float
    h_n: float
    c_n: float
    equations: float
    scale: float
    tolerance: float
    nonfinite: int
    dtype: str

    @property
    def worst(self) -> float:
        """The largest of the four differences."""
        return max(self.output, self.h_n, self.c_n, self.equations)


@dataclass(frozen=True)
class Certificate:
    """Whether a recording is what the model computed, call by call."""

    calls: tuple[CallCheck, ...]

    @property
    def state(self) -> Literal["certified", "uncertified"]:
        """``certified`` when every call was checked and held; nothing recorded is ``uncertified``."""
        return "certified" if self.calls and all(call.worst <= call.tolerance for call in self.calls) else "uncertified"

    def __str__(self) -> str:
        if not self.calls:
            return "uncertified: nothing was recorded"
        worst = max(self.calls, key=lambda call: call.worst / call.tolerance)
        return (
            f"{self.state}: {len(self.calls)} call{'s' if len(self.calls) > 1 else ''} recomputed, largest difference "
            f"{worst.worst:.1e} (allowed {worst.tolerance:.1e}, {worst.dtype})"
        )

    def _repr_html_(self) -> str:
        rows = [(c.module or "(root)", c.call, f"{c.worst:.1e}", f"{c.tolerance:.1e}", c.dtype) for c in self.calls]
        return table(str(self), ("module", "call", "largest difference", "allowed", "dtype"), rows)


@dataclass(frozen=True)
class Coverage:
    """What of a model was seen: how often each recorded module was called, what was never called, what can't be opened."""

    recorded: Mapping[str, int]
    never_called: tuple[str, ...]
    not_opened: Mapping[str, str]
    padding: Padding

    def __str__(self) -> str:
        seen = ", ".join(f"{name or '(root)'} x{n}" for name, n in self.recorded.items())
        parts = [f"recorded {seen or 'nothing'}"]
        if self.never_called:
            parts.append(f"never called: {', '.join(self.never_called)}")
        if self.not_opened:
            parts.append(f"not opened: {', '.join(f'{name} ({kind})' for name, kind in self.not_opened.items())}")
        return "; ".join([*parts, f"padding: {self.padding}"])


class Call(NamedTuple):
    """One call of one layer and direction, as it came, and the states that the module returned for it."""

    trajectory: Trajectory
    last_hidden_state: Tensor
    last_cell_state: Tensor
    continues: bool
    """Whether its initial state is, bit for bit, the state that the call before it ended with."""


class Recording(Mapping[str, Trajectory]):
    """All layers and directions of a model, by name: the module's path and PyTorch's suffix, ``encoder.lstm.l1_reverse``.

    Several calls of a module join: along time where a call starts, bit for bit, from the state that the one before ended
    with; along batch where it starts afresh (padded, under ``valid``). `calls` has them apart.
    """

    def __init__(self, modules: Iterable[str], not_opened: Mapping[str, str]) -> None:
        self._calls: dict[str, list[Call]] = {}
        self._joined: dict[str, Trajectory] = {}
        self._checks: list[CallCheck] = []
        self.modules = dict.fromkeys(modules, 0)
        """How often each module that can be recorded was called, by path."""
        self._not_opened = dict(not_opened)
        self.lengths: Tensor | Sequence[int] | None = None

    def annotate(self, *, lengths: Tensor | Sequence[int] | None) -> None:
        """Say how many steps each sequence of the calls to come has, ``(batch,)``; None where that isn't known."""
        self.lengths = lengths

    def add(self, check: CallCheck, layers: Mapping[str, Call]) -> None:
        """Take in one certified call of a module: one `Call` for each of its layers and directions."""
        for name, call in layers.items():
            self._calls.setdefault(name, []).append(call)
            self._joined.pop(name, None)
        self._checks.append(check)
        self.modules[check.module] += 1

    @property
    def calls(self) -> Mapping[str, tuple[Call, ...]]:
        """Each layer's calls apart, in the order in which they came."""
        return {name: tuple(calls) for name, calls in self._calls.items()}

    def last(self, name: str) -> Call | None:
        """One layer's latest call, or None before the first."""
        return self._calls[name][-1] if name in self._calls else None

    @property
    def certificate(self) -> Certificate:
        """Whether what was recorded is what the model computed."""
        return Certificate(tuple(self._checks))

    @property
    def coverage(self) -> Coverage:
        """What of the model was seen."""
        paddings = {call.trajectory.padding for calls in self._calls.values() for call in calls}
        recorded = {name: n for name, n in self.modules.items() if n}
        return Coverage(recorded, tuple(name for name, n in self.modules.items() if not n), dict(self._not_opened), together(paddings))

    def __getitem__(self, name: str) -> Trajectory:
        if name not in self._calls:
            raise KeyError(f"no layer {name!r} in this recording; it has {', '.join(self._calls) or 'nothing yet: call the model'}")
        if name not in self._joined:
            self._joined[name] = _join(self._calls[name])
        return self._joined[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        return f"<Recording of {', '.join(self._calls) or 'nothing yet'}; {self.certificate}>"

    def _repr_html_(self) -> str:
        rows = [(name, *self[name].cell_state.shape, int(self[name].valid.sum())) for name in self]
        caption = f"{self.certificate}. {self.coverage}"
        return table(caption, ("layer", "batch", "time", "units", "valid steps"), rows)


def _join(calls: list[Call]) -> Trajectory:
    chains: list[list[Trajectory]] = []
    for call in calls:
        if call.continues and chains:
            chains[-1].append(call.trajectory)
        else:
            chains.append([call.trajectory])
    joined = [chain[0] if len(chain) == 1 else _along_time(chain) for chain in chains]
    return joined[0] if len(joined) == 1 else _along_batch(joined)


def _padding_of(parts: list[Trajectory], valid: Tensor) -> Padding:
    return together([*(part.padding for part in parts), "none" if bool(valid.all()) else "known"])


def _along_time(parts: list[Trajectory]) -> Trajectory:
    signals = {name: torch.cat([part.signals[name] for part in parts], dim=1) for name in SIGNALS}
    valid = torch.cat([part.valid for part in parts], dim=1)
    return replace(parts[0], signals=signals, valid=valid, padding=_padding_of(parts, valid))


def _along_batch(parts: list[Trajectory]) -> Trajectory:
    time = max(part.valid.shape[1] for part in parts)

    def stack(tensors: list[Tensor]) -> Tensor:
        pad = [torch.nn.functional.pad(t, (*(0, 0) * (t.dim() - 2), 0, time - t.shape[1])) for t in tensors]
        return torch.cat(pad)

    signals = {name: stack([part.signals[name] for part in parts]) for name in SIGNALS}
    valid = stack([part.valid for part in parts])
    return replace(
        parts[0],
        signals=signals,
        valid=valid,
        padding=_padding_of(parts, valid),
        initial_hidden_state=torch.cat([part.initial_hidden_state for part in parts]),
        initial_cell_state=torch.cat([part.initial_cell_state for part in parts]),
        first_step=torch.cat([part.first_step for part in parts]),
    )
