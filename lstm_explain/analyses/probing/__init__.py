"""What do the cells know?

`probe` fits linear probes and sets controls beside them; `untrained` makes the most important control; `unit_scores` is the
statistics of single units, for plain arrays.
"""
