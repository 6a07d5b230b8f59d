"""Does the network use what a unit knows?

A claim stands on three legs: the units *know* the label (`knows`), they *are used* for it and they *suffice* to move the behaviour
(`patched`). Each is held against its own controls (`states`, `matched`), and gets intervals for all claims at once (`bounds`).
"""
