"""The same draws on every run and no deadlines; one thread, since many of them only wait for each other on tensors this small."""

import torch
from hypothesis import settings

settings.register_profile("lstm_explain", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("lstm_explain")
torch.set_num_threads(1)
