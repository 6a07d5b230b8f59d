"""A value as what a phrase gives, what everything else gives, and a constant: the arithmetic of contextual decomposition.

Murdoch, Liu & Yu 2018, section 3: sums are taken apart as they stand; a nonlinearity by what a part changes, averaged over both orders in
which the phrase and everything else may come after the constant (Shapley); of a product, what the phrase meets itself or a constant in is
the phrase's, and what anything else is in belongs to everything else.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class Parts:
    """``phrase + rest + constant`` in place of a tensor ``(rows, unit)``, for the operations that the equations are made of."""

    def __init__(self, phrase: Tensor, rest: Tensor, constant: Tensor) -> None:
        self.phrase, self.rest, self.constant = phrase, rest, constant

    @property
    def whole(self) -> Tensor:
        """The value."""
        return self.phrase + self.rest + self.constant

    def settled(self, inside: bool) -> "Parts":
        """The constant given to the phrase at a step inside it, and to everything else at others."""
        nothing = torch.zeros_like(self.constant)
        if inside:
            return Parts(self.phrase + self.constant, self.rest, nothing)
        return Parts(self.phrase, self.rest + self.constant, nothing)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """One operation of the equations.

        Raises
        ------
        NotImplementedError
            If it isn't one of them.
        """
        if func in _SQUASHES:
            return _squashed(func, args[0])
        if func is functional.linear:
            x, weight, bias = (*args, *(kwargs or {}).values(), None)[:3]
            return Parts(
                functional.linear(x.phrase, weight), functional.linear(x.rest, weight), functional.linear(x.constant, weight, bias)
            )
        if func is torch.cat:
            pieces, rest = args[0], args[1:]
            return Parts(*(torch.cat([piece._each()[at] for piece in pieces], *rest, **(kwargs or {})) for at in range(3)))
        if func is Tensor.mul:
            return args[1] * args[0]
        raise NotImplementedError(f"no rule for {getattr(func, '__name__', func)} in a contextual decomposition")

    def _each(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.phrase, self.rest, self.constant

    def _alike(self, change: Callable[[Tensor], Any]) -> "Parts":
        return Parts(*(change(part) for part in self._each()))

    def __len__(self) -> int:
        return len(self.phrase)

    def __getitem__(self, rows: Any) -> "Parts":
        return self._alike(lambda part: part[rows])

    def split(self, sizes: Sequence[int]) -> list["Parts"]:
        """As of a tensor."""
        return [Parts(*parts) for parts in zip(*(part.split(sizes) for part in self._each()), strict=True)]

    def chunk(self, count: int, dim: int) -> list["Parts"]:
        """As of a tensor."""
        return [Parts(*parts) for parts in zip(*(part.chunk(count, dim) for part in self._each()), strict=True)]

    def __add__(self, other: Any) -> "Parts":
        if isinstance(other, Parts):
            return Parts(self.phrase + other.phrase, self.rest + other.rest, self.constant + other.constant)
        return Parts(self.phrase, self.rest, self.constant + other)

    def __rsub__(self, other: float) -> "Parts":
        return Parts(-self.phrase, -self.rest, other - self.constant)

    def __mul__(self, other: Any) -> "Parts":
        if not isinstance(other, Parts):
            return self._alike(lambda part: part * other)
        phrase = self.phrase * other.phrase + self.phrase * other.constant + self.constant * other.phrase
        rest = self.rest * other.whole + (self.phrase + self.constant) * other.rest
        return Parts(phrase, rest, self.constant * other.constant)


_SQUASHES = (torch.sigmoid, torch.tanh)


def _squashed(squash: Callable[[Tensor], Tensor], z: Parts) -> Parts:
    alone, with_phrase, with_rest = squash(z.constant), squash(z.phrase + z.constant), squash(z.rest + z.constant)
    whole = squash(z.whole)
    return Parts(0.5 * (with_phrase - alone + whole - with_rest), 0.5 * (with_rest - alone + whole - with_phrase), alone)
