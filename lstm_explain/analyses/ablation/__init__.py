"""Does the network use this unit?

`ablation` takes units away, one set after the other, and measures what that does to the loss: what a set held in its states is replaced
by what another sequence had there, at every step.
"""
