"""The network: a character-level language model with a two-layer `PeepholeLSTM` in its default form."""

from torch import Tensor, nn

from lstm_explain.nn.lstm import PeepholeLSTM
from lstm_explain.studies.python_source.corpus import VOCABULARY

EMBEDDING, HIDDEN, LAYERS = 64, 192, 2


class CharacterModel(nn.Module):
    """Embedding, two layers of peephole LSTM, linear decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, EMBEDDING)
        self.lstm = PeepholeLSTM(EMBEDDING, HIDDEN, LAYERS, batch_first=True)
        self.decoder = nn.Linear(HIDDEN, VOCABULARY)

    def forward(self, symbols: Tensor) -> Tensor:
        """Symbols ``(batch, time)`` -> logits of the next symbol ``(batch, time, vocabulary)``."""
        output, _ = self.lstm(self.embedding(symbols))
        logits: Tensor = self.decoder(output)
        return logits
