"""Explain a study: measure it, and ask one question after the other."""

from inspect import signature
from typing import Any

import torch

from lstm_explain.errors import InputError, first_line
from lstm_explain.report import ablation, attribution, overview, probing, saturation, timescale, unit_text, verification
from lstm_explain.report.facts import facts
from lstm_explain.report.measure import Clock, measure
from lstm_explain.report.private import without_inputs
from lstm_explain.report.result import Report
from lstm_explain.report.viewer.view import view
from lstm_explain.study import Study

SECTIONS = (overview, unit_text, attribution, probing, verification, ablation, saturation, timescale)
"""One question each, in the order of the page."""


STEPS_PER_MB = 400
LARGEST_MB = 25.0


def explain(
    study: Study,
    *,
    seed: int = 0,
    device: str = "cpu",
    thorough: bool = False,
    max_mb: float = 5.0,
    progress: bool | None = None,
    inputs: bool = True,
    clock: Clock | None = None,
    command: str | None = None,
) -> Report:
    """Everything that a page says about a study, as an object.

    Parameters
    ----------
    study : Study
    seed : int
        Of every random draw.
    device : str
        Where the model runs.
    thorough : bool
        Hold every unit of every layer, on all sequences.
    max_mb : float
        How large the page may become, in 10^6 bytes up to 25: how many steps and units its viewer holds follows from it, and how its
        figures are drawn. Its texts and tables aren't cut.
    progress : bool, optional
        Progress bars; by default where there is a terminal.
    inputs : bool
        Whether the report may show what was read. Without, no input value, token or context is in it, nor in its figures; names of labels,
        groups, layers and features, and what the study says of itself, are.
    clock : Clock, optional
        Adds up how long each part takes.
    command : str, optional
        What makes this report again, for its foot; by default this call.

    Raises
    ------
    InputError
        If the study, its model or its data can't be used.
    """
    if not 0 < max_mb <= LARGEST_MB:
        raise InputError(f"needed max_mb above 0, up to {LARGEST_MB:g}, got {max_mb}")
    clock = clock or Clock()
    torch.manual_seed(seed)
    measured = measure(study, _device(device), clock, seed=seed, quiet=progress is False, thorough=thorough, inputs=inputs)
    read = study if inputs else without_inputs(study)
    sections = []
    for room in SECTIONS:
        with clock(f"section {room.__name__.rpartition('.')[2]}"):
            sections.append(room.section(read, measured))
    with clock("viewer"):
        shown = view(read, measured, {section.name: section for section in sections}, round(STEPS_PER_MB * max_mb))
    held = [*(part for section in sections for part in section.holds), *shown.holds]
    assert inputs or not held, "something shows inputs that were to be kept out"
    again = command or _call(seed=seed, device=device, thorough=thorough, max_mb=max_mb, inputs=inputs)
    found = facts(study, sections, held, seed=seed, device=device, inputs=inputs, again=again)
    return Report(study, measured, tuple(sections), found, shown, max_mb)


def _call(**given: Any) -> str:
    """How `explain` was called, with what isn't as usual."""
    usual = {name: option.default for name, option in signature(explain).parameters.items()}
    return f"lx.explain({', '.join(['study', *(f'{name}={value!r}' for name, value in given.items() if value != usual[name])])})"


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    # A name that torch doesn't know, a build without that device, a device without storage: each has an exception of its own.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"needed a device that this machine has, got {name!r}: {first_line(error)}") from error
    return device
