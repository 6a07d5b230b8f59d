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
        logits, _ = self.continue_from(symbols, None)
        return logits

    def continue_from(self, symbols: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As `forward`, from a state ``(h, c)``, each ``(layers, batch, hidden)``; returns the state after it too."""
        output, state = self.lstm(self.embedding(symbols), state)
        return self.decoder(output), state
