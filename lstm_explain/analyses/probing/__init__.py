"""What do the cells know?

`probe` fits linear probes and sets controls beside them; `untrained` makes the most important control; `unit_scores` is the
statistics of single units, for plain arrays. For these as well: `sparse_probe`, how many units it takes; `description_length`, how
many bits the states save; `erase`, what remains once the label is taken out.
"""
