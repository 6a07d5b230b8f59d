"""Models for ``--model tests/small_models.py:NAME``."""

import sys

from torch import nn


class Forecaster(nn.Module):
    def __init__(self, features, units):
        super().__init__()
        self.gru = nn.GRU(features, units, batch_first=True)
        self.head = nn.Linear(units, 1)

    def forward(self, series):
        return self.head(self.gru(series)[0])


def forecaster(features=2, units=3):
    return Forecaster(features, units)


class Speller(nn.Module):
    def __init__(self, symbols):
        super().__init__()
        self.embedding = nn.Embedding(symbols, 4)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.head = nn.Linear(4, symbols, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, symbols):
        return self.head(self.lstm(self.embedding(symbols))[0])


def speller(symbols=4):
    return Speller(symbols)


class Classifier(Forecaster):
    def forward(self, series):
        return self.head(self.gru(series)[1][-1])


def classifier():
    return Classifier(2, 3)


def not_a_model():
    return 3


def leaves():
    sys.exit("bye")
