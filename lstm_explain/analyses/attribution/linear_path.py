"""Integrated gradients where an LSTM reads the points of the path themselves, or what is linear in them: one run for the whole path.

What such a layer reads lies on a straight line too, so what it gives to the gates takes two products with the weights however many nodes
there are, and on the way back the nodes are summed before they meet the weights again (`lstm_explain.nn.lines`); what
stands between the points and the layer is differentiated once. Whatever else the output has of the points, such as a
connection that passes the layer by, is differentiated at each node as ever.

Nothing is taken to be linear unseen. What the layer reads must be on the line at every node, must depend on the points in the same way at
two places of each example's path, and the whole must give the model's own gradient at the first input.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lstm_explain.errors import InputError
from lstm_explain.nn.equations import Form, Weights
from lstm_explain.nn.kernels.sequence import Computed, Lines
from lstm_explain.nn.layers import RunsSequence, suffixes, weights_of
from lstm_explain.nn.layout import Layout
from lstm_explain.nn.lines import run_lines
from lstm_explain.nn.sequence import run_sequence
from lstm_explain.recording.own_kernels import Lowest

if TYPE_CHECKING:
    from lstm_explain.analyses.attribution.methods import Problem

_ROUNDINGS = 16
"""By how many roundings two ways to the same number may differ."""
_GATES = 1 << 24
"""Bytes of gates in one pass, where that is enough to keep the kernels busy: more memory comes anew from the system in each pass."""
_ABREAST = 64
"""Rows that keep a thread busy."""


@dataclass(frozen=True, eq=False)
class _Front:
    """What a call of a layer read of some examples at two places of their path, and the points that it came from.

    ``rows (n,)``; ``places (n,)``, the first of them; the second is the input. ``points``, in as many parts as there were passes,
    ``(2*n, time[, feature])`` in all; ``read (2*n, time, feature)``, on autograd's graph.
    """

    rows: Tensor
    places: Tensor
    points: Sequence[Tensor]
    read: Tensor

    def pulled(self, by_read: Tensor) -> Tensor | None:
        """What was to do with what was read as to do with the points; None where it didn't come from them."""
        found = torch.autograd.grad(self.read, self.points, by_read, retain_graph=True, allow_unused=True)
        return None if any(one is None for one in found) else torch.cat(found)

    def at_input(self, by_read: Tensor) -> Tensor:
        """The same of what was read at the inputs alone, ``(n, time, feature)``, and of the points there."""
        by_all = torch.zeros_like(self.read)
        by_all[-len(by_read) :] = by_read[:, : by_all.shape[1]]
        found = self.pulled(by_all)
        assert found is not None
        return found[-len(by_read) :]

    def steady(self, reach: Tensor, path: Tensor) -> bool:
        """Whether what was read depends on the points in the same way at both places, as far as the path goes."""
        n = len(self.rows)
        some = torch.randn(self.read[:n].shape, generator=torch.Generator().manual_seed(0)).to(reach) * reach
        if (pulled := self.pulled(some.repeat(2, 1, 1))) is None:
            return False
        one, other = (pulled.unflatten(0, (2, n)) * path[self.rows]).flatten(2)
        scale = torch.maximum(one.abs(), other.abs()).amax(1, keepdim=True)
        return bool(((one - other).abs() <= _rounding(one) * scale).all())


@dataclass(frozen=True, eq=False)
class _Line:
    """What a call of a layer reads, from the baselines to the inputs.

    ``start`` and ``step (time, batch, feature)``; ``reach (feature,)``, by how much each feature moves a pre-activation at most;
    ``allowed (time, batch)``, by how much what is read may be off in pre-activations; ``gates``, how many values these are in a row.
    """

    layer: str
    fronts: Sequence[_Front]
    start: Tensor
    step: Tensor
    reach: Tensor
    allowed: Tensor
    gates: int

    def holds(self, read: Tensor, rows: Tensor, places: Tensor) -> bool:
        """Whether what is read ``(time, place, example, feature)`` is on it."""
        time = len(read)
        expected = torch.addcmul(self.start[:time, rows].unsqueeze(1), self.step[:time, rows].unsqueeze(1), places.unsqueeze(2))
        off = expected.sub_(read).abs_() @ self.reach
        return bool((off <= self.allowed[:time, rows].unsqueeze(1)).all())


def _front(rows: Tensor, places: Tensor, points: Sequence[Tensor], call: Sequence[tuple[str, Tensor | None]]) -> _Front | None:
    """What the same call read in one pass after the other, where it is one and reads something for each point."""
    reads = [read for _, read in call if read is not None]
    if len(reads) < len(call) or len({(layer, *read.shape[1:]) for (layer, _), read in zip(call, reads, strict=True)}) > 1:
        return None
    return _Front(rows, places, points, torch.cat(reads))


def _rounding(of: Tensor) -> float:
    return _ROUNDINGS * torch.finfo(of.dtype).eps


def _line(layer: str, module: nn.Module, fronts: Sequence[_Front | None], path: Tensor) -> _Line | None:
    """The line that a call of a layer reads from, if it does; one front for each part of the examples."""
    known = [front for front in fronts if front is not None]
    if len(known) < len(fronts):
        return None
    lowest = [suffix for suffix in suffixes(module) if suffix.startswith("l0")]  # type: ignore[arg-type]
    weights = [weights_of(module, suffix).weight_ih.detach() for suffix in lowest]  # type: ignore[arg-type]
    reach = torch.cat(weights).abs().amax(0)
    time = max(front.read.shape[1] for front in known)
    parts = [pad(front.read.detach(), (0, 0, 0, time - front.read.shape[1])).unflatten(0, (2, -1)) for front in known]
    between, end = torch.cat(parts, 1).transpose(1, 2)
    step = (end - between) / (1 - torch.cat([front.places for front in known])).unsqueeze(1)
    start = end - step
    allowed = _rounding(reach) * (torch.maximum(start.abs(), end.abs()) @ reach)
    steady = all(front.steady(reach, path) for front in known)
    return _Line(layer, known, start, step, reach, allowed, len(weights[0])) if steady else None


class _Group:
    """Some examples on their way through the model, at some places of their path in each pass."""

    def __init__(self, lines: list[_Line | None], rows: Tensor) -> None:
        self._lines, self._rows = lines, rows
        self._places, self._calls = torch.empty(0), 0
        self.begun: dict[tuple[int, bool], tuple[Tensor, Tensor, Tensor]] = {}
        """By call and direction: what is given to the gates at the baselines, which gradients reach, how far that goes to the
        inputs, and the weights between."""

    def enter(self, places: Tensor) -> None:
        """A pass begins: every example at the first place, then at the second, ..."""
        self._places, self._calls = places, 0

    def __call__(self, layer: str, rows: Tensor, layout: Layout) -> RunsSequence | None:
        """Who runs the lowest layer of the next call."""
        at, self._calls = self._calls, self._calls + 1
        line, places, examples = self._lines[at] if at < len(self._lines) else None, len(self._places), len(self._rows)
        if line is None:
            return None
        fits = line.layer == layer and not layout.unbatched and layout.batch == places * examples and len(layout.sizes) <= len(line.start)
        read = layout.batch_time(rows.detach()).transpose(0, 1).unflatten(1, (places, examples)) if fits else rows
        if not fits or not line.holds(read, self._rows, self._places.unsqueeze(1)):
            self._lines[at] = None
            return None
        lines = torch.arange(len(read) * examples).view(-1, 1, examples).expand(-1, places, -1)
        of_row, place = (layout.rows_of(one.flatten(1).T) for one in (lines, self._places.unsqueeze(1).expand(lines.shape)))

        def run(
            x: Tensor, h0: Tensor, c0: Tensor, weights: Weights, form: Form, sizes: Sequence[int], reverse: bool, *, keep: bool
        ) -> Computed:
            if any(one is not None and one.requires_grad for one in weights):
                self._lines[at] = None
                return run_sequence(x, h0, c0, weights, form, sizes, reverse, keep=keep)
            start, step, _ = self._begun(at, line, weights, reverse)
            return run_lines(Lines(start.flatten(0, 1), step.flatten(0, 1), of_row, place), h0, c0, weights, form, sizes, reverse)

        return run

    def _begun(self, at: int, line: _Line, weights: Weights, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        if (at, reverse) not in self.begun:
            with torch.no_grad():
                start, step = (one[:, self._rows] @ weights.weight_ih.T for one in (line.start, line.step))
                for bias in (weights.bias_ih, weights.bias_hh):
                    start = start if bias is None else start.add_(bias)
            self.begun[at, reverse] = start.requires_grad_(), step, weights.weight_ih
        return self.begun[at, reverse]


class LinearPath:
    """The path from baselines to inputs, and the layers that read what is linear in it.

    Parameters
    ----------
    problem : Problem
    path : Tensor ``(batch, time[, feature])``
        How far it is from the baselines to the inputs.
    """

    def __init__(self, problem: "Problem", path: Tensor) -> None:
        self._problem, self._path = problem, path
        self._lines: list[_Line | None] = []
        self._asked: Lowest | None = None
        self.sought = False

    def lowest(self, layer: str, rows: Tensor, layout: Layout) -> RunsSequence | None:
        """Who runs the lowest layer of a call, as `lstm_explain.recording.own_kernels.own_kernels` asks."""
        return None if self._asked is None else self._asked(layer, rows, layout)

    @property
    def layers(self) -> list[str]:
        """The layers that read what is linear in the path, by their paths in the model."""
        return list(dict.fromkeys(line.layer for line in self._lines if line is not None))

    def find(self) -> None:
        """Look for them, once, and keep them if they give the model's own gradient."""
        self.sought = True
        problem = self._problem
        if problem.first_gradient is None:
            return
        fronts = [self._fronts(rows) for rows in problem.rows.split(max(1, problem.rows_at_once // 2))]
        layers = [layer for layer, _ in fronts[0]]
        if all([layer for layer, _ in one] == layers for one in fronts):
            modules = [problem.model.get_submodule(layer) for layer in layers]
            calls = [[front for _, front in call] for call in zip(*fronts, strict=True)]
            self._lines = [_line(*of, self._path) for of in zip(layers, modules, calls, strict=True)]
        if self.layers and not self._certified():
            self._lines = []

    def _fronts(self, rows: Tensor) -> list[tuple[str, _Front | None]]:
        """What each call read of some examples, and of which layer."""
        somewhere = torch.rand(len(rows), generator=torch.Generator().manual_seed(0)).to(self._path) / 2
        places = torch.stack([somewhere, torch.ones_like(somewhere)])
        points, passes = list[Tensor](), list[list[tuple[str, Tensor | None]]]()
        for part in torch.arange(2).split(max(1, self._problem.rows_at_once // len(rows))):
            points.append(self._points(rows, places[part]))
            passes.append([])

            def note(layer: str, read: Tensor, layout: Layout) -> None:
                fits = read.requires_grad and not layout.unbatched and layout.batch == len(points[-1])
                passes[-1].append((layer, layout.batch_time(read) if fits else None))

            self._call(note, points[-1], rows.repeat(len(part)))
        return [(call[0][0], _front(rows, somewhere, points, call)) for call in zip(*passes, strict=False)]

    def _points(self, rows: Tensor, places: Tensor) -> Tensor:
        """Points of some examples, all at the first place, then at the second, ...; ``places (k, n)``, or ``(k, 1)`` for all."""
        wide = places.to(self._path.dtype).view(*places.shape, *[1] * (self._path.dim() - 1))
        return torch.addcmul(self._problem.baselines[rows], self._path[rows], wide).flatten(0, 1).requires_grad_()

    def _call(self, asked: Lowest, points: Tensor, rows: Tensor) -> Tensor:
        self._asked = asked
        try:
            return self._problem.explained(points, rows)
        finally:
            self._asked = None

    def _certified(self) -> bool:
        problem, one = self._problem, torch.ones(1, dtype=torch.float64)
        assert problem.first_gradient is not None
        first = problem.rows[:1]
        try:
            found = problem.masked(self.integral(first, one, one)[:1], first)
            # Neither does one that has written, since then, into what its pass had kept for a backward pass.
            expected = problem.masked(problem.first_gradient(), first)
        except (InputError, RuntimeError):  # a model that differentiates itself finds no way through
            return False
        return bool((found - expected).abs().max() <= torch.finfo(self._path.dtype).eps ** 0.5 * expected.abs().max())

    def integral(self, rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum of the gradients at some places of the path, in float64.

        Parameters
        ----------
        rows : Tensor of int ``(n,)``
            The examples.
        places, weights : Tensor of float64 ``(nodes,)``

        Returns
        -------
        Tensor ``(n, time[, feature])``
        """
        lines = {at: line for at, line in enumerate(self._lines) if line is not None}
        fronts = {at: line.fronts for at, line in lines.items()}
        by_read = {at: torch.zeros_like(line.start) for at, line in lines.items()}
        total = torch.zeros_like(self._path, dtype=torch.float64)
        most = self._rows_at_once(lines.values())
        for some in rows.split(max(1, most // len(places))):
            group, sums = _Group(self._lines, some), dict[tuple[int, bool], Tensor]()
            for part in torch.arange(len(places)).split(max(1, most // len(some))):
                direct, given = self._pass(group, some, places[part], weights[part])
                total[some] += direct
                for key, one in given.items():
                    sums[key] = sums[key] + one if key in sums else one
            for (at, reverse), one in sums.items():
                by_read[at].index_add_(1, some, one.to(self._path.dtype) @ group.begun[at, reverse][2])
        for at, of_all in by_read.items():
            for front in fronts[at]:
                if torch.isin(front.rows, rows).any():
                    total[front.rows] += front.at_input(of_all[:, front.rows].transpose(0, 1))
        return total[rows]

    def _rows_at_once(self, lines: Iterable[_Line]) -> int:
        widest = max([len(line.start) * line.gates * self._path.element_size() for line in lines], default=1)
        return min(self._problem.rows_at_once, max(_ABREAST * torch.get_num_threads(), _GATES // widest))

    def _pass(self, group: _Group, rows: Tensor, places: Tensor, weights: Tensor) -> tuple[Tensor, dict[tuple[int, bool], Tensor]]:
        """The weighted sum of gradients at some places: of the points themselves, and of what is given to the gates."""
        points = self._points(rows, places.unsqueeze(1))
        group.enter(places.to(points.dtype))
        numbers = self._call(group, points, rows.repeat(len(places))).view(len(places), -1)
        given = {key: start for key, (start, *_) in group.begun.items()}
        wanted = [points, *given.values()]
        found = torch.autograd.grad((numbers * weights.to(numbers).unsqueeze(1)).sum(), wanted, allow_unused=True)
        direct = torch.zeros((), dtype=torch.float64) if found[0] is None else found[0].unflatten(0, (len(places), -1)).double().sum(0)
        return direct, {key: one.double() for key, one in zip(given, found[1:], strict=True) if one is not None}
