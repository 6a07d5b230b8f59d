"""A study without what was read, for reports that may be passed on where the data may not."""

from dataclasses import replace

from lstm_explain.study import Place, Study


def without_inputs(study: Study) -> Study:
    """The same study for sections: it has no tokens, classes are numbered, and places are called by their step.

    The model must still be run, so inputs are there; a section that would show any asks `Measured.inputs` first, and says so in
    `Section.holds`.
    """
    return replace(
        study,
        tokens=None,
        next_tokens=None if study.next_tokens is None else [f"class {at}" for at in range(len(study.next_tokens))],
        places=[Place(_called(place), place.sequence, place.target) for place in study.places],
    )


def _called(place: Place) -> str:
    step = f"step {place.target[0]}" if len(place.target) > 1 else f"output {place.target[0]}"
    return f"{step} of sequence {place.sequence}"
