"""Which units are on throughout this span, and where else are they? Select and match, after LSTMVis (Strobelt et al. 2018).

`select` finds the units, `match` the other spans; `runs` is what both count.
"""
