"""How often something is found where there is nothing; 200 draws of each kind by ``python tests/benchmark_probing.py --part wrong``."""

import numpy as np
import pytest
from probed import KINDS, falsely_shown
from scipy.stats import binom


@pytest.mark.parametrize("kind", KINDS)
def test_independent_slow_series_are_hardly_ever_significant_or_shown(kind):
    draws = 16
    small, shown = np.sum([falsely_shown(seed, kind) for seed in range(1000, 1000 + draws)], axis=0)
    # At a rate of 10 %, more than this come less than once in a hundred times.
    assert max(small, shown) <= binom.ppf(0.99, draws, 0.1)
