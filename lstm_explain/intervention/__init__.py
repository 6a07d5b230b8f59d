"""Change a gate or a state inside a running model."""
