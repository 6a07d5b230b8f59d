"""A network that is trained to read aⁿbⁿ, after Gers & Schmidhuber (2001): what may come next is all that it is asked."""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

import lstm_explain as lx

END, A, B = range(3)


class Counter(nn.Module):
    """Two cells that see their own state, as in Gers & Schmidhuber (2000), and a read-out of what may come."""

    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layer = lx.PeepholeLSTM(3, 2, batch_first=True, peephole="diagonal", wiring="graves")
            self.head = nn.Linear(2, 3)

    def forward(self, x):
        return self.head(self.layer(x)[0])


def words(counts):
    """The words aⁿbⁿ between ends: inputs ``(batch, time, 3)``, what may come, how many a's are open (NaN on padding), and lengths."""
    longest = 2 * max(counts) + 1
    symbols, may_come = np.zeros((len(counts), longest), int), np.zeros((len(counts), longest, 3))
    open_ = np.full((len(counts), longest), np.nan)
    for row, n in enumerate(counts):
        symbols[row, : 2 * n + 1] = [END] + [A] * n + [B] * n
        may_come[row, 0, A] = may_come[row, 2 * n, END] = 1
        may_come[row, 1 : n + 1, [A, B]] = 1
        may_come[row, n + 1 : 2 * n, B] = 1
        open_[row, : 2 * n + 1] = [*range(n + 1), *range(n - 1, -1, -1)]
    return one_hot(torch.from_numpy(symbols), 3).float(), torch.from_numpy(may_come).float(), open_, [2 * n + 1 for n in counts]


def trained(seed, steps=1000, up_to=10):
    """A network trained on n from 1 to `up_to`."""
    model = Counter(seed)
    inputs, may_come, _, lengths = words(range(1, up_to + 1))
    real = (torch.arange(inputs.shape[1]) < torch.tensor(lengths)[:, None]).float()[:, :, None]
    optimiser = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(steps):
        loss = (binary_cross_entropy_with_logits(model(inputs), may_come, reduction="none") * real).sum() / real.sum()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model.eval()


def reads(model, n):
    """Whether it says what may come at every step of one word."""
    inputs, may_come, _, _ = words([n])
    with torch.no_grad():
        return bool(((model(inputs) > 0) == (may_come > 0)).all())
