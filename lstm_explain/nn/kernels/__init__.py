"""The equations once more, fast: arrays in, arrays out, no module and no autograd."""
