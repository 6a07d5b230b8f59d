"""How many bits does a label cost once the states are known?

A probe's accuracy doesn't say how much data it took to find the label. A code length does: labels are sent portion by portion, each
one coded by a probe of all that was sent before, so that a label which is easy to read costs little from the beginning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lstm_explain.analyses.probing.codes import FRACTIONS, Code, code_lengths
from lstm_explain.analyses.probing.labels import Kind
from lstm_explain.analyses.probing.rows import rows
from lstm_explain.analyses.probing.threads import one_thread
from lstm_explain.analyses.probing.unit_scores import Moved, Null, null_for
from lstm_explain.display import jsonable, number, table
from lstm_explain.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

PENALTIES = (0.01, 1.0, 100.0, 10_000.0)
PIECES = 1000
"""What one series is cut into: a thousandth is the first portion."""


@dataclass(frozen=True, eq=False, repr=False)
class DescriptionLengthResult:
    """What it costs to send a label to somebody who has the states.

    Attributes
    ----------
    bits : float
        The whole label with the states.
    reference_bits : float
        The same steps in the same portions without the states: by how often each class, or by which mean and variance, came before.
    uniform_bits : float
        Every step by itself: log2 of the number of classes, or of the cells of width `resolution` between the smallest and largest number.
    ends : ndarray of int ``(portion,)``
        How many steps are known after each portion.
    portion_bits, portion_reference_bits : ndarray ``(portion,)``
        What each portion costs; the first one is uniform in both.
    probe_bits : ndarray ``(penalty,)``
        The whole label by each probe alone, without the mixture.
    moved : ndarray ``(draw,)``
        The compression of labels that were moved against the states, so that nothing but their relation is lost.
    p_value : float
        How often moved labels are compressed as well; the real ones count as one draw.
    kind : str
    classes : tuple of str
    null : {"circular_shift", "group_permutation"}
    steps, groups, units : int
    penalties : tuple of float
    resolution : float
        To what width numbers are coded; NaN for classes.
    unconverged : int
        Fits that hadn't converged; they cost bits, and mislead nobody.
    """

    bits: float
    reference_bits: float
    uniform_bits: float
    ends: NDArray[np.int64]
    portion_bits: NDArray[np.float64]
    portion_reference_bits: NDArray[np.float64]
    probe_bits: NDArray[np.float64]
    moved: NDArray[np.float64]
    p_value: float
    kind: Kind
    classes: tuple[str, ...]
    null: Null
    steps: int
    groups: int
    units: int
    penalties: tuple[float, ...]
    resolution: float
    unconverged: int

    @property
    def compression(self) -> float:
        """How many times shorter than without the states; about 1 where they tell nothing."""
        return self.reference_bits / self.bits

    @property
    def uniform_compression(self) -> float:
        """How many times shorter than uniform: the published measure (Voita & Titov 2020). Above 1 for uneven classes alone."""
        return self.uniform_bits / self.bits

    def __repr__(self) -> str:
        moved = f"labels moved {self.moved.mean():.3g} ± {self.moved.std(ddof=1):.2g}, p {self.p_value:.3g}"
        return (
            f"<DescriptionLength: {number(round(self.bits))} bits of {number(round(self.reference_bits))} without the states, "
            f"compression {self.compression:.3g} ({moved}); {self.kind} label, {self.steps} steps of {self.groups} groups>"
        )

    def _repr_html_(self) -> str:
        begins = [0, *self.ends[:-1].tolist()]
        each = zip(begins, self.ends.tolist(), self.portion_bits, self.portion_reference_bits, strict=True)
        body = [(f"{begin} to {end}", *(f"{bits / (end - begin):.3f}" for bits in costs)) for begin, end, *costs in each]
        caption = f"Compression {self.compression:.3g}, labels moved {self.moved.mean():.3g} ± {self.moved.std(ddof=1):.2g}"
        return table(caption, ("steps", "bits per step", "without the states"), body)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers; None where a value isn't finite."""
        return dict(jsonable(vars(self) | {"compression": self.compression, "uniform_compression": self.uniform_compression}))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each portion. Needs pandas."""
        from pandas import DataFrame

        names = ("ends", "portion_bits", "portion_reference_bits")
        return DataFrame({name: getattr(self, name) for name in names}).rename_axis("portion")


@one_thread()
def description_length(
    states: NDArray[Any],
    labels: NDArray[Any],
    *,
    groups: Any = None,
    penalties: Sequence[float] = PENALTIES,
    resolution: float | None = None,
    null: Null | None = None,
    permutations: int = 19,
    seed: int = 0,
) -> DescriptionLengthResult:
    """The minimum description length of a label given states, by online coding (Voita & Titov 2020).

    Groups come in an order drawn by `seed`, in portions that end at 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.25, 12.5, 25, 50 and 100 % of all
    steps. The first portion is coded uniformly. Each other one is coded by what all before it make of it:

    - without the states: each class by its share among the steps before, with one step more of each (Laplace), or numbers by the normal
      distribution of the mean and variance before, to which one step of the uniform distribution over the label's range is added;
    - by linear probes, one for each of the `penalties`: logistic regression, where a class that didn't come before keeps its share by
      Laplace; or ridge regression with the normal distribution of the mean squared error that this probe made in the portion before,
      for the first one the variance without states;
    - all of these mixed by how well they coded what came before (Bayes, from even weights): the mixture costs at most log2 of their number
      more bits than the best of them, and hence next to nothing where the states tell nothing.

    A number y costs -log2 of the probability of y ± `resolution` / 2. While this is narrow against the errors, twice the resolution saves
    one bit at each step in every code: the difference of two code lengths stays, their quotient doesn't.

    Parameters
    ----------
    states : ndarray ``(step, unit)``
    labels : ndarray ``(step,)``
        Booleans, whole numbers or text are classes (-1 or "" where undefined), floating-point numbers are numbers (NaN where undefined).
    groups : sequence ``(step,)``, optional
        Which sequence, file or patient each step belongs to, in one piece each: a portion has whole groups. If left out, the steps are one
        series, which comes in a thousand pieces; where neighbours resemble each other, moved labels are then compressed as well.
    penalties : sequence of float
        Of half the sum of squared weights (of standardised states) against the sum of -ln p, or of half the sum of squared errors.
        ``(1.0,)`` is scikit-learn's C = 1 alone.
    resolution : float, optional
        For numbers; a 32nd of their standard deviation if left out.
    null : {"circular_shift", "group_permutation"}, optional
        How labels are moved, as in `unit_scores`.
    permutations : int
        How often they are moved; each costs as much as the label itself.
    seed : int

    Returns
    -------
    DescriptionLengthResult

    Raises
    ------
    InputError
        If shapes don't fit, a state isn't finite, the label has one value only, every unit is constant, or there is one group.

    Examples
    --------
    >>> import numpy as np, lstm_explain as lx
    >>> states = np.random.default_rng(0).normal(size=(2000, 4))
    >>> result = lx.description_length(states, states[:, 0] > 0, permutations=2)
    >>> result.compression > 10, round(result.moved.mean(), 1)
    (True, np.float64(1.0))
    """
    if null not in (None, "circular_shift", "group_permutation"):
        raise InputError(f"needed null as circular_shift or group_permutation, got {null!r}")
    if permutations < 2:
        raise InputError(f"needed at least two permutations, which have a spread, got {permutations}")
    if not len(penalties) or not all(np.isfinite(one) and one > 0 for one in penalties):
        raise InputError(f"needed penalties as positive numbers, at least one, got {tuple(penalties)}")
    if resolution is not None and not (np.isfinite(resolution) and resolution > 0):
        raise InputError(f"needed the resolution as a positive number, got {resolution}")
    states, truth, group = rows(states, labels, groups, pieces=PIECES)
    count = int(group.max()) + 1
    if count < 2:
        raise InputError("needed at least two groups, of which one is coded by the other, got one: give finer groups")
    runs = np.zeros_like(group) if groups is None else group
    null = null or null_for(truth.values, runs)
    if null == "group_permutation" and len(np.unique(runs)) < 2:
        raise InputError("needed at least two groups to permute, got one: give groups=, or shift in a circle")
    drawn = np.random.default_rng([seed, 1]).permutation(count)[group]
    order = np.argsort(drawn, kind="stable")
    ends = portions(np.bincount(drawn))
    y = np.stack([truth.values, *(truth.values[place] for places in Moved(runs, null).places(permutations, seed) for place in places)])
    code = Code.of(truth, tuple(map(float, penalties)), resolution)
    found = code_lengths(states[order].astype(np.float64), y[:, order], ends, code)
    bits, reference = found.bits.sum(1), found.reference.sum(1)
    compression = reference / bits
    return DescriptionLengthResult(
        bits=float(bits[0]),
        reference_bits=float(reference[0]),
        uniform_bits=len(group) * code.uniform,
        ends=ends,
        portion_bits=found.bits[0],
        portion_reference_bits=found.reference[0],
        probe_bits=found.probes[0],
        moved=compression[1:],
        p_value=float((1 + (compression[1:] >= compression[0] - 1e-12).sum()) / (1 + permutations)),
        kind=truth.kind,
        classes=truth.classes,
        null=null,
        steps=len(group),
        groups=count,
        units=states.shape[1],
        penalties=code.penalties,
        resolution=code.resolution,
        unconverged=found.unconverged,
    )


def portions(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """After how many steps portions end, from the sizes of groups in the order in which they come."""
    known = sizes.cumsum()
    # A portion ends with the group that first fills it; rounding must not ask for one more.
    places = np.searchsorted(known, np.array(FRACTIONS) * known[-1] * (1 - 1e-12))
    return np.unique(known[places])
