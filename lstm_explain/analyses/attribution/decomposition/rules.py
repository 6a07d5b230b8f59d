"""The arithmetic of layer-wise relevance propagation, as a gradient: the relevance of any value is the value times what comes back to it.

A sum hands its relevance to its terms in proportion (Bach et al. 2015), which is what a gradient times an input does. All else needs
another derivative than its own, so that gradient times input gives the papers' rules (Arras et al. 2017, 2019):

- through a nonlinearity a = φ(z) relevance passes as it is: its derivative is a / z. The ε-rule for the sum z makes it a / (z + ε sign z),
  and what ε takes is counted;
- of a gate times a signal, p = γ s, the signal gets the share 1 - α and the gate α: the derivatives are (1 - α) γ and α s, in place of
  γ and s.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lstm_explain.analyses.attribution.decomposition.layers import Call, Left
from lstm_explain.nn.equations import Edit
from lstm_explain.nn.layout import Layout
from lstm_explain.recording.edits import Slot

Rule = Literal["all", "half", "proportional"]
RULES: tuple[Rule, ...] = ("all", "half", "proportional")
_SUMS = {"lstm": "cell_state", "peephole_lstm": "cell_state", "gru": "hidden_state"}
"""The signal of each kind that is a sum of products; an RNN's only sum is the one inside its nonlinearity."""


class _Gate(Tensor):
    """What a sigmoid has computed."""


class Relevance(TorchFunctionMode):
    """While it is on, the equations' operations have the derivatives of a rule, and their own values.

    Attributes
    ----------
    absorbed, started : Tensor
        Each is 1 and scales nothing but its own credit: the output's derivative with respect to it is the relevance that ε has taken, and
        that of initial states which depend on nothing.
    """

    def __init__(self, rule: Rule, epsilon: float, like: Tensor) -> None:
        super().__init__()
        self._rule, self._epsilon = rule, epsilon
        self.absorbed, self.started = (torch.ones((), dtype=like.dtype, device=like.device, requires_grad=True) for _ in range(2))
        self._sum: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """One operation of the equations."""
        if func is torch.sigmoid:
            gate = torch.sigmoid(args[0])
            return gate.detach() if self._rule == "all" else self._passes(gate, args[0], self._epsilon).as_subclass(_Gate)
        if func in (torch.tanh, torch.relu):
            # The ε-rule of a sum is applied once, however many read it.
            return self._passes(func(args[0]), args[0], 0.0 if args[0] is self._sum else self._epsilon)
        if func is Tensor.mul and isinstance(args[0], _Gate):
            return self._product(args[0].as_subclass(Tensor), args[1])
        return func(*args, **(kwargs or {}))

    def summed(self, value: Tensor) -> Tensor:
        """A sum of products, with the ε-rule."""
        self._sum = self._passes(value, value, self._epsilon)
        return self._sum

    def _passes(self, value: Tensor, z: Tensor, epsilon: float) -> Tensor:
        """The value, where relevance passes as it is to the sum z that it was made of."""
        stabiliser = torch.full_like(z, epsilon).copysign(z).detach()
        # Where z and ε are zero, so is the relevance; 1 is the limit of tanh.
        slope = torch.where(z + stabiliser == 0, 1.0, value / (z + stabiliser)).detach()
        return value.detach() + slope * (z - z.detach() + stabiliser * (self.absorbed - 1))

    def _product(self, gate: Tensor, signal: Tensor) -> Tensor:
        share: Tensor | float = 0.5
        if self._rule == "proportional":
            sizes = gate.abs() + signal.abs()
            share = torch.where(sizes == 0, 0.0, gate.abs() / sizes).detach()
        through_gate = gate * (share * signal).detach()
        return through_gate + signal * ((1 - share) * gate).detach()

    def __call__(self, call: Call) -> Left:
        """A call of a layer or cell."""
        initial = {
            suffix: {name: state if state.requires_grad else state * self.started for name, state in states.items()}
            for suffix, states in call.initial.items()
        }
        with self:
            return call._replace(initial=initial).by_equations(_Sums(_SUMS.get(call.kind), self.summed, call.layout, call.rows.device))


class _Sums(Slot):
    """Where the equations have added up products, the ε-rule."""

    def __init__(self, signal: str | None, summed: Callable[[Tensor], Tensor], layout: Layout, device: torch.device) -> None:
        super().__init__((), layout, device)
        self._signal, self._summed = signal, summed

    def at(self, t: int, n: int) -> Edit:
        """At every step the same."""
        return lambda name, value: self._summed(value) if name == self._signal else value
