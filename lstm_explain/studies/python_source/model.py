"""The networks: character-level language models that differ in their recurrent layers alone."""

from typing import Literal

from torch import Tensor, nn

from lstm_explain.nn.lstm import PeepholeLSTM
from lstm_explain.studies.python_source.corpus import VOCABULARY

EMBEDDING, HIDDEN, LAYERS = 64, 192, 2

Recurrent = Literal["peephole", "lstm"]
"""`PeepholeLSTM` in its default form, or the stock `torch.nn.LSTM`."""
SUFFIX: dict[Recurrent, str] = {"peephole": "", "lstm": "_lstm"}
"""What a network's study, and its files beside this one, have at the end of their names."""


class CharacterModel(nn.Module):
    """Embedding, two recurrent layers, linear decoder."""

    def __init__(self, recurrent: Recurrent = "peephole") -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, EMBEDDING)
        layer = {"peephole": PeepholeLSTM, "lstm": nn.LSTM}[recurrent]
        self.lstm: PeepholeLSTM | nn.LSTM = layer(EMBEDDING, HIDDEN, LAYERS, batch_first=True)
        self.decoder = nn.Linear(HIDDEN, VOCABULARY)

    def forward(self, symbols: Tensor) -> Tensor:
        """Symbols ``(batch, time)`` -> logits of the next symbol ``(batch, time, vocabulary)``."""
        output, _ = self.lstm(self.embedding(symbols))
        logits: Tensor = self.decoder(output)
        return logits
