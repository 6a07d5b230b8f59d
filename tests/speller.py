"""A speller whose memory is one known cell, and a study of it."""

import torch
from mechanisms import OPEN, blank, rows
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

import lstm_explain as lx

TOKENS = ("a", "b", ".")


class Speller(nn.Module):
    """Reads a or b and dots in turn, and must say after each dot which of the two it was: unit 0 counts, unit 1 sees the dot."""

    def __init__(self):
        super().__init__()
        self.lstm, self.decoder = blank(3, 4), nn.Linear(4, 3, bias=False).double()
        with torch.no_grad():
            for gate in "io":
                rows(self.lstm, gate).fill_(OPEN)
            rows(self.lstm, "f").copy_(torch.tensor([OPEN, -OPEN, 0, 0]))
            candidate = self.lstm.weight_ih_l0[8:12]
            candidate[0] = torch.tensor([1.0, -1.0, 0.0])
            candidate[1] = torch.tensor([-4.0, -4.0, 4.0])
            candidate[2:] = 0.3
            self.decoder.weight[:] = torch.tensor([[8.0, 0, 0, 0], [-8.0, 0, 0, 0], [0, -20.0, 0, 0]])

    def forward(self, symbols):
        return self.decoder(self.lstm(one_hot(symbols, 3).double())[0])


def study(turned=0, **changes):
    """Forty sequences; in the last `turned` the letter turns into the other one half way."""
    letters = torch.randint(2, (40, 1), generator=torch.Generator().manual_seed(0)).expand(40, 21).clone()
    letters[40 - turned :, 10:] = 1 - letters[40 - turned :, 10:]
    letters[:, 1::2] = 2
    targets = letters[:, 1:]
    given = {
        "tokens": [[TOKENS[n] for n in row] for row in letters[:, :-1].tolist()],
        "loss": lambda output, of: cross_entropy(output.transpose(1, 2), targets[of, : output.shape[1]], reduction="none"),
        "next_tokens": TOKENS,
        "lengths": [20] * 40,
    }
    return lx.Study(Speller(), letters[:, :-1], **(given | changes))
