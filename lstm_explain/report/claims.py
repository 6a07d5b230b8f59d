"""Which claims a report tests: the study's own, or about units that tell a label and do something, chosen on some of the groups."""

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch

from lstm_explain.analyses.probing.labels import read as as_label
from lstm_explain.analyses.probing.unit_scores import unit_scores
from lstm_explain.display import number
from lstm_explain.errors import InputError
from lstm_explain.recording.runner import record
from lstm_explain.report.behaviour import Behaviour, behaviour_of, output_of
from lstm_explain.report.measure import Measured
from lstm_explain.report.read import Read
from lstm_explain.study import Study
from lstm_explain.verdicts.verification.claim import Claim
from lstm_explain.verdicts.verification.result import VerificationResult
from lstm_explain.verdicts.verification.verify import verify

FEWEST = 9
"""Of fewer groups there is nothing to choose on and enough to test on."""
CANDIDATES = 8
"""Units that are held for each label, of which two are claimed."""
LABELS = 6
"""Of more labels the first are claimed, which the page says."""
CHOSEN_ON = 8_448
"""Steps that claims are chosen on, of all sequences together."""
SEQUENCES, STEPS = 48, 33_792
"""What claims are tested on: at most so many sequences, evenly spaced, and the first so many steps of all of them together."""
FOLDS = 5
_QUICK = {"donors": 1, "matched": 1, "twins": 1, "permutations": 1, "resamples": 2}
"""For numbers that are looked at without their intervals and controls."""


class Asked(NamedTuple):
    """The claims, the sequences that they are tested on, and how they came about."""

    claims: list[Claim]
    read: Read
    why: str


def asked(study: Study, measured: Measured) -> Asked:
    """The study's own claims; or units chosen on a third of the groups, for the others to test.

    Chosen are for each label the unit that tells it best, and of those that tell it next best, above their controls, the one that does
    most: with which, when it holds what it held in another sequence, the behaviour changes most where that sequence's label differs. To
    choose by what units do takes nothing from the test, which is made on other groups; the unit that tells a label best is often not the
    one that is read most.

    Raises
    ------
    InputError
        If there is nothing to claim, or there are too few groups.
    """
    if study.loss is None:
        raise InputError("the study has no loss that could change")
    sequences, steps = (len(study.inputs), study.steps) if measured.thorough else (SEQUENCES, STEPS)
    if study.claims:
        return Asked(list(study.claims), Read.of(study, sequences, steps), "The claims are the study’s own.")
    if not study.labels:
        raise InputError("the study has no labels")
    groups = list(range(len(study.inputs))) if study.groups is None else list(study.groups)
    at = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    if len(at) < FEWEST:
        raise InputError(f"needed at least {FEWEST} groups, a third to choose units on and the others to test them, got {len(at)}")
    third = np.array([at[group] % 3 == 0 for group in groups])
    first = Read.of(study, SEQUENCES, CHOSEN_ON, np.flatnonzero(third))
    candidates = _candidates(study, first)
    claims, how = _chosen(study, measured, first, candidates[:LABELS])
    of = "each label that is" if len(candidates) <= LABELS else f"each of the first {LABELS} labels that are"
    return Asked(
        claims,
        Read.of(study, sequences, steps, np.flatnonzero(~third)),
        f"Claimed is, for {of} yes or no or a number, that one or two units carry it: of all layers’ the one that tells it "
        f"best on a third of the groups, and {how}; they are tested on the other {number(len(at) - -(-len(at) // 3))}.",
    )


def tested(study: Study, measured: Measured, claims: list[Claim], read: Read, behaviour: Behaviour, **effort: Any) -> VerificationResult:
    """`verify` on what was read of a study, with so many donors, matched units, twins."""
    return verify(
        claims,
        study.model,
        read.inputs,
        {name: label[read.rows, : read.steps] for name, label in study.labels.items()},
        loss=behaviour.loss,
        output=output_of(study),
        lengths=read.lengths,
        groups=read.groups,
        folds=min(FOLDS, len(set(read.groups or read.rows.tolist()))),
        seed=measured.seed,
        progress=False if measured.quiet else None,
        **effort,
    )


def _candidates(study: Study, read: Read) -> list[list[Claim]]:
    """For each label the units that go best with it, the best first."""
    with torch.no_grad(), record(study.model, lengths=read.lengths) as recording:
        study.model(read.inputs)
    found = []
    for name, label in study.labels.items():
        given = as_label(name, label[read.rows, : read.steps])
        each: list[tuple[float, Claim]] = []
        for layer, trajectory in recording.items():
            here = trajectory.valid.cpu().numpy() & given.defined
            states = trajectory.signal(trajectory.memory).double().cpu().numpy()[here]
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # constant units are last
                    scores = unit_scores(states, label[read.rows, : read.steps][here], permutations=1)
            except InputError:
                continue
            if scores.kind != "categorical":
                each += [(float(scores.scores[unit]), Claim(layer, int(unit), name)) for unit in range(len(scores.scores))]
        if each:
            found.append([claim for _, claim in sorted(each, key=lambda one: -one[0])[:CANDIDATES]])
    if not found:
        raise InputError("the study has no label that is yes or no or a number, and varies")
    return found


def _chosen(study: Study, measured: Measured, read: Read, candidates: list[list[Claim]]) -> tuple[list[Claim], str]:
    """For each label two of the candidates, and in words what the second one is."""
    try:
        every = [one for each in candidates for one in each]
        result = tested(study, measured, every, read, behaviour_of(study, read), **_QUICK)
    except InputError as error:
        return [one for each in candidates for one in each[:2]], f"the next best (what they do can’t be seen there: {error})"
    seen = {one.claim: one for one in result.claims}
    claims = []
    for best, *others in candidates:
        above = [one for one in others if seen[one].knows.score > seen[one].knows.controls[seen[one].knows.closest]]
        claims += [best, *sorted(above, key=lambda one: -seen[one].used.effect.value)[:1]]
    return claims, (
        f"of the {number(CANDIDATES - 1)} next best, if any is above its controls there, that one of them which, held, changes the "
        "behaviour most where the label differs"
    )
