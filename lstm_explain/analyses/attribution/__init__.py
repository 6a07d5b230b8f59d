"""Which inputs made this output?

Attributions by Captum's methods, made safe for recurrent networks: tokens are attributed in embedding space, padding gets exactly
zero, integrated gradients are refined until they add up, and methods that are wrong on gates are refused with the reason. Beside them
`decomposition`: methods that go through the gates themselves; and `gates`: what a gate or a state itself did.
"""
