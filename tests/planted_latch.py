"""A network with latches planted in it: units that keep the last of two signals, some read and some not."""

import numpy as np
import torch
from torch import nn

B, T = 20, 60


class Latched(nn.Module):
    """An LSTM in float64 whose `latches` keep the sign of the last signal; `read` is what the output makes of their hidden states.

    Inputs are (set, unset, noise, noise). All other units are random, see the latches faintly and are faintly read.
    """

    def __init__(self, units=16, latches=(3,), read=lambda latches, rest: latches.sum(-1, keepdim=True) + rest, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.lstm = nn.LSTM(4, units, batch_first=True)
        self.head = nn.Linear(units, 1)
        self.double()
        self.latches, self.read = list(latches), read
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_((torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 2 - 1) * 0.3)
            rows = torch.arange(4 * units) % units
            for unit in self.latches:
                for parameter in self.lstm.parameters():
                    parameter[rows == unit] = 0.0
                i, f, g, o = (gate * units + unit for gate in range(4))
                self.lstm.bias_ih_l0[[i, f, o]] = torch.tensor([-8.0, 8.0, 8.0], dtype=torch.float64)
                self.lstm.weight_ih_l0[i, :2], self.lstm.weight_ih_l0[f, :2] = 16.0, -16.0
                self.lstm.weight_ih_l0[g, :2] = torch.tensor([4.0, -4.0], dtype=torch.float64)
                self.lstm.weight_hh_l0[:, unit] *= 0.3
                self.head.weight[:, unit] = 0.0
            self.head.weight *= 0.1

    def silence(self, unit):
        """Let nothing read a unit."""
        with torch.no_grad():
            self.lstm.weight_hh_l0[:, unit] = 0.0
            self.head.weight[:, unit] = 0.0
        return self

    def forward(self, x):
        hidden = self.lstm(x)[0]
        return self.read(hidden[:, :, self.latches], self.head(hidden))


def signals(seed=0, batch=B, time=T, every=15):
    """Inputs ``(batch, time, 4)`` and what a latch says after each step: 1 for set, 0 for unset, -1 before the first signal."""
    rng = np.random.default_rng(seed)
    signal, sets = rng.random((batch, time)) < 1 / every, rng.random((batch, time)) < 0.5
    signal[:, 0] = True
    inputs = np.concatenate([(signal & sets)[..., None], (signal & ~sets)[..., None], rng.normal(size=(batch, time, 2))], axis=2)
    last = np.maximum.accumulate(np.where(signal, np.arange(time), 0), axis=1)
    return torch.from_numpy(inputs), np.take_along_axis(sets, last, axis=1).astype(np.int64)


def squared(labels):
    """The loss of an output that should be -1 or 1 as a label says."""
    wanted = torch.from_numpy(2.0 * labels - 1)
    return lambda output, rows: (output[..., 0] - wanted[rows]).square()
