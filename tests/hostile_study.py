"""Texts that break pages, files and figures, everywhere that a study may have one, for ``--study tests/hostile_study.py:make``."""

import numpy as np
import torch
from torch import nn

import lstm_explain as lx

TEXTS = {
    "script": "</script><script>window.pwned=1</script>",
    "image": "<img src=x onerror=window.pwned=1>",
    "pre": "</pre></style></title></table>",
    "comment": "<!-- <![CDATA[ ]]> --!>",
    "attribute": "\" onload='window.pwned=1' `",
    "template": "{{ 7 * 7 }}{% raw %}",
    "separators": "line\u2028paragraph\u2029end",
    "nul": "a\x00b\x1b[31m\x7f",
    "surrogate": "lone \ud800 half",
    "override": "abc\u202egnirts\u202c",
    "unclosed": "left \u202eopen",
    "hebrew": "שלום 12",
    "emoji": "👩‍👩‍👧 😀",
    "marks": "e" + "\u0301" * 10_000,
    "dollars": r"$\undefined{$ \$ $x^2$",
    "markdown": "[a](javascript:window.pwned=1) **b** ![c](https://example.invalid/d.png) | e",
    "long": "x" * 3_000,
}


class Reader(nn.Module):
    """Its layer's name is hostile as well; a module's name has no dot in it."""

    def __init__(self, name):
        super().__init__()
        self.embedding = nn.Embedding(len(TEXTS), 3)
        self.rooms = nn.ModuleDict({name: nn.LSTM(3, 6, batch_first=True)})
        self.decoder = nn.Linear(6, len(TEXTS))

    def forward(self, symbols):
        (layer,) = self.rooms.values()
        return self.decoder(layer(self.embedding(symbols))[0])


def make(seed=0, **changes):
    torch.manual_seed(seed)
    texts, every = list(TEXTS.values()), "".join(text for name, text in TEXTS.items() if name not in ("marks", "long"))
    symbols = torch.randint(len(texts), (12, 24))

    def loss(output, rows):
        losses = torch.zeros(output.shape[:2])
        losses[:, :-1] = nn.functional.cross_entropy(output[:, :-1].transpose(1, 2), symbols[rows, 1:], reduction="none")
        return losses

    yes = symbols.numpy() % 2 == 0
    given = {
        "lengths": [24] * 12,
        "labels": {
            every: yes,
            TEXTS["long"]: np.roll(yes, 1, 1),
            TEXTS["surrogate"] + TEXTS["nul"] + TEXTS["override"]: symbols.numpy() < 6,
        },
        "groups": [f"{texts[n % len(texts)]}{n}" for n in range(12)],
        "tokens": [[texts[symbol] for symbol in row] for row in symbols.tolist()],
        "next_tokens": texts,
        "loss": loss,
        "places": [lx.Place(every + TEXTS["marks"], 1, (20, 3))],
        "name": every,
        "about": {"what": every + TEXTS["marks"], "text": TEXTS["unclosed"], "caveats": {"attribution": every}},
    }
    return lx.Study(Reader(every.replace(".", "")), symbols, **(given | changes))


def series(seed=0):
    """The same names over numbers."""
    every = "".join(text for name, text in TEXTS.items() if name not in ("marks", "long"))
    drawn = torch.randn(8, 20, 3, generator=torch.Generator().manual_seed(seed))
    return lx.Study(
        nn.LSTM(3, 4, batch_first=True), drawn, feature_names=[every, TEXTS["marks"], TEXTS["long"]], target=(-1, 2), name=TEXTS["nul"]
    )
