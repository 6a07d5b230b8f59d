"""What the section on attributions says of whether they may be trusted: a known memory, and what isn't asked."""

from types import SimpleNamespace

import small_study
import torch
from mechanisms import adding
from torch import nn

import lstm_explain as lx
from lstm_explain.report import attribution
from lstm_explain.report.faithfulness import SEQUENCES, STEPS, trust

MEASURED = SimpleNamespace(seed=0, inputs=True)


class Adding(nn.Module):
    """The sum of the marked values at every step, as the first of two classes."""

    def __init__(self):
        super().__init__()
        self.lstm = adding()

    def forward(self, inputs):
        added = 1e3 * self.lstm(inputs)[0]
        return torch.cat([added, torch.zeros_like(added)], 2)


def planted(sequences=24, steps=60, **options):
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(sequences, steps, dtype=torch.float64, generator=generator) + 0.5
    marker = (torch.rand(sequences, steps, generator=generator) < 0.08).double()
    return lx.Study(Adding(), torch.stack([values, marker], 2), lengths=[steps] * sequences, **options)


def test_a_known_memory_is_shown_in_the_text_the_table_and_the_numbers():
    study = planted(places=[lx.Place("the sum", 3, (40, 0))], groups=[n // 2 for n in range(24)])
    section = attribution.section(study, MEASURED)
    assert "removing the 10 % of steps they name lowers the output more than removing as many at random: shown, +" in section.finding
    numbers = section.numbers["trust"]
    assert len(numbers["sequences"]) == SEQUENCES and numbers["first_steps"] == STEPS
    ((question, verdict), *_) = numbers["verdicts"]["integrated_gradients"].items()
    assert ("integrated gradients", question, verdict) in section.tables[0].rows and verdict.startswith("shown, +")
    assert {picture.name for picture in section.pictures} == {"attribution_1", "attribution_deletion", "attribution_agreement"}
    # The marker opens the gate or doesn't: only a difference to the baseline sees it, and saliency says so of itself.
    assert {row[2].split(":")[0].split(",")[0] for row in section.tables[0].rows} >= {"shown", "not controlled"}
    assert "groups" in section.method


def test_a_study_with_a_target_is_asked_about_that():
    found = trust(planted(steps=40, target=(-1, 0)), MEASURED)
    assert found.numbers["what"] == "the study’s target" and found.numbers["first_steps"] == 40


def test_padding_is_left_out_and_the_prediction_is_that_at_the_end():
    study = small_study.make()
    study.model.eval()
    found = trust(study, MEASURED)
    lengths = torch.tensor([study.lengths[row] for row in found.numbers["sequences"]])
    with torch.no_grad():
        wanted = study.model(study.inputs)[torch.arange(8), lengths - 1].argmax(1)
    explained = found.numbers["comparison"]["explained"]
    assert explained == [f"output[{end - 1}, {one}]" for end, one in zip(lengths.tolist(), wanted.tolist(), strict=True)]


def test_what_is_not_asked_says_why_and_the_rest_stands():
    few = planted(sequences=4, places=[lx.Place("the sum", 3, (40, 0))])
    section = attribution.section(few, MEASURED)
    assert "not controlled: needed at least 6 sequences" in section.not_shown and section.finding.endswith("steps.")
    assert section.numbers["trust"]["none"].startswith("needed at least 6") and len(section.pictures) == 1
    assert "needed at least 6" in trust(planted(steps=400, target=(-1, 0)), MEASURED)
    flat = planted(places=[lx.Place("the sum", 3, (40,))], output=lambda returned: returned[..., 0])
    assert "(sequence, step, class)" in trust(flat, MEASURED)
