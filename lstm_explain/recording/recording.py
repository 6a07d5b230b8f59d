"""`Recording`: everything that was seen of a model's recurrent layers, by name, and how calls join."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lstm_explain.display import table
from lstm_explain.errors import InputError
from lstm_explain.nn.layout import Layout
from lstm_explain.recording.certificate import CallCheck, Certificate
from lstm_explain.trajectory import Padding, Trajectory, along_batch, along_time, together

if TYPE_CHECKING:
    from pathlib import Path

    from xarray import DataTree


@dataclass(frozen=True, repr=False)
class Coverage:
    """What of a model was seen.

    Attributes
    ----------
    recorded : mapping of str to int
        How often each module was called.
    never_called : tuple of str
    not_opened : mapping of str to str
        Recurrent modules that can't be opened: their class, and what to do instead.
    padding : {"none", "known", "unknown"}
    recomputed : mapping of str to int
        How often activation checkpointing ran a module again during a backward pass; such calls aren't recorded twice.
    elsewhere : mapping of str to int
        How often a module was called in another thread; a recording belongs to the thread that made it.
    aliases : mapping of str to tuple of str
        Other paths to the same module.
    """

    recorded: Mapping[str, int]
    never_called: tuple[str, ...]
    not_opened: Mapping[str, str]
    padding: Padding
    recomputed: Mapping[str, int] = field(default_factory=dict)
    elsewhere: Mapping[str, int] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"recorded {_times(self.recorded) or 'nothing'}"]
        if self.never_called:
            parts.append(f"never called: {', '.join(map(_path, self.never_called))}")
        if self.not_opened:
            parts.append(f"not opened: {', '.join(f'{_path(name)} ({why})' for name, why in self.not_opened.items())}")
        if self.recomputed:
            parts.append(f"run again by checkpointing: {_times(self.recomputed)}")
        if self.elsewhere:
            parts.append(f"called in another thread: {_times(self.elsewhere)}")
        if self.aliases:
            parts.append(f"one module: {', '.join(' = '.join(map(_path, (name, *others))) for name, others in self.aliases.items())}")
        return "; ".join([*parts, f"padding: {self.padding}"])

    def __repr__(self) -> str:
        return f"<Coverage: {self}>"

    def _repr_html_(self) -> str:
        rows = [(_path(name), n, "") for name, n in self.recorded.items()]
        rows += [(_path(name), 0, "never called") for name in self.never_called]
        rows += [(_path(name), 0, f"not opened: {why}") for name, why in self.not_opened.items()]
        return table(str(self), ("module", "calls", "missed"), rows)


def _path(name: str) -> str:
    return name or "(root)"


def _times(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{_path(name)} x{n}" for name, n in counts.items())


class Call(NamedTuple):
    """One call of one layer and direction, as it came."""

    trajectory: Trajectory
    last: Mapping[str, Tensor]
    """The states that the module returned for it, ``(batch, unit)``, by name."""
    continues: bool
    """Whether it goes on where the call before it ended."""
    edited: Tensor | None = None
    """Of which sequences the model changed a state in between, ``(batch,)`` of bool; None if of none."""
    nodes: "Nodes | None" = None


class Nodes(NamedTuple):
    """Where in autograd's graph one call's signals are."""

    steps: Sequence[Mapping[str, Tensor]]
    layout: Layout
    order: Tensor | None = None
    """The order of the sequences, where they were put in another."""

    def reordered(self, order: Tensor) -> "Nodes":
        """The same, with its sequences in another order."""
        return self._replace(order=order if self.order is None else self.order[order])

    def signals(self, gradients: Iterator[Tensor | None]) -> dict[str, Tensor]:
        """Gradients for all nodes, one after the other, as ``(batch, time, unit)`` by name."""
        rows: dict[str, list[Tensor]] = {}
        for step in self.steps:
            for name, node in step.items():
                found = next(gradients)
                rows.setdefault(name, []).append(torch.zeros_like(node) if found is None else found.detach())
        signals = {name: self.layout.batch_time(torch.cat(parts)) for name, parts in rows.items()}
        return signals if self.order is None else {name: signal[self.order.to(signal.device)] for name, signal in signals.items()}


class Notes(NamedTuple):
    """What was said of the calls to come."""

    lengths: Tensor | Sequence[int] | Mapping[str, Tensor | Sequence[int]] | None = None
    valid: Tensor | NDArray[np.bool_] | Mapping[str, Tensor | NDArray[np.bool_]] | None = None
    labels: Mapping[str, Any] | None = None
    groups: Sequence[Any] | None = None
    inputs: Any = None
    names: Sequence[str | int] | None = None


class Recording(Mapping[str, Trajectory]):
    """All layers and directions of a model, by name: the module's path and PyTorch's suffix, ``encoder.lstm.l1_reverse``.

    A cell's name is its path, and its steps stand in the order of its calls. Several calls of a module join: along time where a
    call starts, bit for bit, from the state that the one before ended with, and where a cell goes on with an edited state inside
    one pass of the model; along batch where it starts afresh (padded, under ``valid``). `calls` has them apart.
    """

    def __init__(
        self, modules: Iterable[str], not_opened: Mapping[str, str] | None = None, aliases: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        self._calls: dict[str, list[Call]] = {}
        self._joined: dict[str, Trajectory] = {}
        self._in_order: dict[str, int] = {}
        self._checks: list[CallCheck] = []
        self._paddings: set[Padding] = set()
        self._not_opened, self._aliases = dict(not_opened or {}), dict(aliases or {})
        self.modules = dict.fromkeys(modules, 0)
        """How often each module that can be recorded was called, by path."""
        self.recomputed = dict.fromkeys(self.modules, 0)
        self.elsewhere = dict.fromkeys(self.modules, 0)
        self.kept: str | None = None
        """What is kept, where it isn't everything."""
        self.notes = Notes()

    def annotate(
        self,
        *,
        lengths: Tensor | Sequence[int] | Mapping[str, Tensor | Sequence[int]] | None = None,
        valid: Tensor | NDArray[np.bool_] | Mapping[str, Tensor | NDArray[np.bool_]] | None = None,
        labels: Mapping[str, Any] | None = None,
        groups: Sequence[Any] | None = None,
        inputs: Any = None,
        names: Sequence[str | int] | None = None,
    ) -> None:
        """Say of the calls to come what can't be seen; each time anew, what is left out isn't known.

        Parameters
        ----------
        lengths : Tensor of int or sequence of int ``(batch,)``, optional
            How many steps of each sequence are real; a mapping from layers to theirs where they read different sequences.
        valid : Tensor or ndarray of bool ``(batch, time)``, optional
            Which steps are real, where padding doesn't only come last; in place of `lengths`.
        labels, groups : optional
            For the analyses of ``into=`` that need them: as in `Probing.update`.
        inputs, names : optional
            What each step reads, and what each sequence is called: as in `Contexts.update`.

        Raises
        ------
        InputError
            If both `lengths` and `valid` are given.
        """
        if lengths is not None and valid is not None:
            raise InputError("needed lengths or valid, got both")
        self.notes = Notes(lengths, valid, labels, groups, inputs, names)

    def reorder(self, index: Tensor | Sequence[int]) -> None:
        """Put the sequences of the latest calls back in order, for those who sort a batch by hand.

        Row k of the recording becomes row ``index[k]`` of what the layers saw, as in ``output.index_select(0, index)``. It is done
        to all calls since the last time.

        Raises
        ------
        InputError
            If `index` doesn't name each sequence of those calls once.
        """
        try:
            order = torch.as_tensor(index)
        except (TypeError, ValueError, RuntimeError):
            raise InputError(f"needed index as whole numbers, one for each sequence, got {index!r}") from None
        if order.dim() != 1 or order.is_floating_point() or order.dtype == torch.bool:
            raise InputError(f"needed index as whole numbers, one for each sequence, got {order.tolist()}")
        fresh = {name: calls[self._in_order.get(name, 0) :] for name, calls in self._calls.items()}
        if not any(fresh.values()):
            raise InputError("needed a call to put in order, got none since the last time: call the model first")
        for name, calls in fresh.items():
            for batch in {len(call.trajectory.valid) for call in calls}:
                if sorted(order.tolist()) != list(range(batch)):
                    raise InputError(f"needed index with each of 0 to {batch - 1} once, for {name}, got {order.tolist()}")
        for name, calls in fresh.items():
            self._calls[name][self._in_order.get(name, 0) :] = [
                call._replace(
                    trajectory=call.trajectory.select(order),
                    last={state: last[order.to(last.device)] for state, last in call.last.items()},
                    edited=None if call.edited is None else call.edited[order.to(call.edited.device)],
                    nodes=call.nodes and call.nodes.reordered(order),
                )
                for call in calls
            ]
            self._in_order[name] = len(self._calls[name])
            self._joined.pop(name, None)

    def add(self, check: CallCheck, layers: Mapping[str, Call]) -> None:
        """Take in one certified call of a module: one `Call` for each of its layers and directions."""
        for name, call in layers.items():
            self._calls.setdefault(name, []).append(call)
            self._joined.pop(name, None)
            self._paddings.add(call.trajectory.padding)
        self._checks.append(check)
        self.modules[check.module] += 1

    @classmethod
    def of(cls, checks: Sequence[CallCheck], calls: Mapping[str, Call], coverage: Coverage, kept: str | None) -> Self:
        """A recording from its parts: the one call of each layer, and what was known of all of them."""
        recording = cls([*coverage.recorded, *coverage.never_called, *coverage.elsewhere], coverage.not_opened, coverage.aliases)
        recording.modules |= coverage.recorded
        recording.recomputed |= coverage.recomputed
        recording.elsewhere |= coverage.elsewhere
        recording._checks, recording.kept = list(checks), kept
        recording._calls = {name: [call] for name, call in calls.items()}
        recording._paddings = {call.trajectory.padding for call in calls.values()}
        return recording

    def let_go(self) -> None:
        """Forget what the calls held, and of their checks all but the worst one of each module, with what all together were sampled at."""
        self._calls, self._joined, self._in_order = {}, {}, {}
        worst: dict[str, CallCheck] = {}
        for check in self._checks:
            before = worst.setdefault(check.module, check)
            if before is not check:
                kept = max(before, check, key=lambda one: one.share)
                worst[check.module] = kept._replace(sampled=before.sampled + check.sampled, steps=before.steps + check.steps)
        self._checks = list(worst.values())

    @property
    def calls(self) -> Mapping[str, tuple[Call, ...]]:
        """Each layer's calls apart, in the order in which they came."""
        return {name: tuple(calls) for name, calls in self._calls.items()}

    @property
    def certificate(self) -> Certificate:
        """Whether what was recorded is what the model computed."""
        return Certificate(tuple(self._checks), sum(self.modules.values()), self.kept)

    @property
    def coverage(self) -> Coverage:
        """What of the model was seen."""
        return Coverage(
            recorded={name: n for name, n in self.modules.items() if n},
            never_called=tuple(name for name, n in self.modules.items() if not n and not self.elsewhere[name]),
            not_opened=dict(self._not_opened),
            padding=together(self._paddings),
            recomputed={name: n for name, n in self.recomputed.items() if n},
            elsewhere={name: n for name, n in self.elsewhere.items() if n},
            aliases=dict(self._aliases),
        )

    @property
    def nbytes(self) -> int:
        """How many bytes the signals of all calls take."""
        calls = (call for calls in self._calls.values() for call in calls)
        return sum(signal.nbytes for call in calls for signal in call.trajectory.signals.values())

    def gradients(self, loss: Tensor, *, retain_graph: bool = False) -> dict[str, Trajectory]:
        """The gradient of a loss with respect to every gate and state, at every step; of ``record(model, grad=True)``.

        It is the total derivative: a state's gradient counts all that it does later on.

        Parameters
        ----------
        loss : Tensor
            A scalar, computed inside the block or after it from what the model returned.
        retain_graph : bool
            Whether the graph is kept for another backward pass.

        Returns
        -------
        dict of str to Trajectory
            By layer, of kind ``"gradient"``: ``gradients["lstm.l0"].forget_gate`` is ``(batch, time, unit)``. Where the loss doesn't
            depend on a signal it is 0.

        Raises
        ------
        InputError
            If the recording has no graph, or the loss doesn't hang on it.
        """
        calls = [(name, call, call.nodes) for name, calls in self._calls.items() for call in calls]
        flat = [node for _, _, nodes in calls if nodes is not None for step in nodes.steps for node in step.values()]
        if not flat:
            raise InputError("needed a recording with its graph: use lx.record(model, grad=True), with gradients enabled in the block")
        if not isinstance(loss, Tensor):
            raise InputError(f"needed a loss that is one number with a graph, got {type(loss).__name__}")
        if loss.numel() != 1 or not loss.requires_grad:
            raise InputError(
                f"needed a loss that is one number with a graph, got shape {tuple(loss.shape)}, requires_grad={loss.requires_grad}"
            )
        for name, _, nodes in calls:
            fixed = (signal for step in (nodes.steps if nodes else ()) for signal, node in step.items() if not node.requires_grad)
            if (signal := next(fixed, None)) is not None:
                raise InputError(f"needed signals that depend on an input, a state or a weight with gradients, got {signal} of {name}")
        try:
            found = iter(torch.autograd.grad(loss.sum(), flat, retain_graph=retain_graph, allow_unused=True))
        except RuntimeError as error:
            if "second time" not in str(error):
                raise
            raise InputError(
                "needed a graph that is still there, got one that a backward pass has freed: ask for the gradients before loss.backward(), "
                "or keep it with retain_graph=True"
            ) from error
        joined: dict[str, list[Call]] = {}
        for name, call, nodes in calls:
            if nodes is not None:
                one = replace(call.trajectory, kind="gradient", signals=nodes.signals(found), started={}, units=None, changed={})
                joined.setdefault(name, []).append(call._replace(trajectory=one, edited=None))
        return {name: _join(parts) for name, parts in joined.items()}

    def to_numpy(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Each layer's signals by name as arrays ``(batch, time, unit)``, with ``valid (batch, time)`` beside them.

        bfloat16, which NumPy doesn't have, becomes float32.
        """

        def array(tensor: Tensor) -> NDArray[Any]:
            found: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()
            return found

        return {
            name: {signal: array(tensor) for signal, tensor in [*trajectory.signals.items(), ("valid", trajectory.valid)]}
            for name, trajectory in self.items()
        }

    def to_xarray(self) -> "DataTree":
        """An `xarray.DataTree` with a dataset for each layer: dimensions ``batch``, ``time``, ``unit``. Needs xarray.

        The names of nodes are the layers'. ``hidden_state`` has the dimension ``projection`` where there is one.
        """
        from xarray import Dataset, DataTree

        sets = {}
        for name, arrays in self.to_numpy().items():
            trajectory = self[name]
            fields: dict[str, Any] = {}
            for signal, array in arrays.items():
                last = "projection" if signal == "hidden_state" and "weight_hr" in trajectory.weights else "unit"
                fields[signal] = (("batch", "time", last)[: array.ndim], array)
            coordinates = {} if trajectory.units is None else {"unit": list(trajectory.units)}
            sets[name] = Dataset(fields, coordinates, {"kind": trajectory.kind, "padding": trajectory.padding})
        return DataTree.from_dict(sets)

    def save(self, path: "str | Path") -> None:
        """Write the joined trajectories and their certificate into one file, whole or not at all; `load` reads it.

        Raises
        ------
        OutputError
            If the file can't be written.
        InputError
            If there is nothing to save.
        """
        from lstm_explain.recording.files import save

        save(self, path)

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
        nothing = "nothing kept" if any(self.modules.values()) else "nothing yet"
        return f"<Recording of {', '.join(self._calls) or nothing}; {self.certificate}; {self.coverage}>"

    def _repr_html_(self) -> str:
        rows = [(name, one.kind, *next(iter(one.signals.values())).shape, int(one.valid.sum())) for name, one in self.items()]
        caption = f"{self.certificate}. {self.coverage}"
        return table(caption, ("layer", "kind", "batch", "time", "units", "valid steps"), rows)


def _join(calls: Sequence[Call]) -> Trajectory:
    chains: list[list[Call]] = []
    for call in calls:
        if call.continues and chains:
            chains[-1].append(call)
        else:
            chains.append([call])
    return along_batch([along_time([c.trajectory for c in chain], [c.edited for c in chain]) for chain in chains])
