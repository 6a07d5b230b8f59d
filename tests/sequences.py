"""Calls of one LSTM layer in one direction, of every form and at sizes that fit nothing."""

import math
from typing import NamedTuple

import torch
from cases import FORMS
from hypothesis import strategies as st

from lstm_explain.nn.equations import Form, Weights


class Drawn(NamedTuple):
    """One layer and direction, and a call of it; `sizes` has one number for each step, as in a packed sequence."""

    form: tuple = ("full", "previous")
    sizes: tuple = (3, 3, 3)
    features: int = 2
    units: int = 3
    projection: int = 0
    bias: bool = True
    reverse: bool = False
    scale: float = 1.0
    seed: int = 0

    def leaves(self, dtype=torch.float64):
        """x, h0, c0 and the weights, as rounded to `dtype`."""
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape, scale=1.0):
            return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)

        H, P = self.units, self.projection or self.units
        rows = len(Form(*self.form).peephole_rows)
        scale = self.scale / math.sqrt(H)
        weights = Weights(
            normal(4 * H, self.features, scale=self.scale / math.sqrt(self.features)),
            normal(4 * H, P, scale=scale),
            normal(4 * H) if self.bias else None,
            normal(4 * H) if self.bias else None,
            {"full": normal(rows * H, H, scale=scale), "diagonal": normal(rows, H, scale=0.5), None: None}[self.form[0]],
            normal(P, H, scale=scale) if self.projection else None,
        )
        x, h0, c0 = normal(sum(self.sizes), self.features), normal(self.sizes[0], P), normal(self.sizes[0], H)
        return [x, h0, c0, *weights]

    @property
    def call(self):
        return Form(*self.form), self.sizes, self.reverse


@st.composite
def calls(draw, **fixed):
    """Calls of all kinds: a batch beyond a block of sequences, units beyond a panel of columns."""
    steps = draw(st.integers(1, 6))
    most = draw(st.sampled_from([1, 2, 3, 4, 5, 7, 13, 70]))
    sizes = draw(st.one_of(st.just([most] * steps), st.lists(st.integers(1, most), min_size=steps, max_size=steps)))
    units = draw(st.sampled_from([1, 2, 3, 5, 8, 15, 16, 17, 33, 40]))
    options = {
        "form": draw(st.sampled_from(FORMS)),
        "sizes": tuple(sorted(sizes, reverse=True)),
        "features": draw(st.sampled_from([1, 2, 5, 18])),
        "units": units,
        "projection": draw(st.sampled_from([0, 0, 1, units // 2])) if units > 1 else 0,
        "bias": draw(st.booleans()),
        "reverse": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
    }
    return Drawn(**options | fixed)
