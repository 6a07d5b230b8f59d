"""The first screen: what was explained, the best founded unit with its legs, what else was found, and what wasn't."""

from collections.abc import Mapping, Sequence
from typing import Any

from lstm_explain.report.section import Section
from lstm_explain.report.words import counted, sentence
from lstm_explain.study import Study

KEPT_OUT = "It holds no input values, tokens or contexts: these were kept out"


def summary(study: Study, sections: Sequence[Section], held: Sequence[str], inputs: bool) -> dict[str, Any]:
    """What the first screen says, ready for JSON: nothing stands there that isn't in here."""
    found = {section.name: section for section in sections}
    claims = [dict(claim) for section in sections for claim in section.lead]
    tested = found["verification"].numbers.get("tested") if "verification" in found else None
    return {
        "what": sentence(study.about.get("what", f"a model, {type(study.model).__name__}")),
        **_data(study, found["overview"].numbers),
        "holds": holds(held, inputs),
        "tested": tested,
        "tested_none": None if tested is not None else "no claim was tested",
        "verified": None if tested is None else found["verification"].numbers["verified"],
        "verified_none": None if tested is not None else "no claim was tested",
        "claims": claims,
        "found": _lines(sections, "brief"),
        "missed": _lines(sections, "missed"),
    }


def holds(parts: Sequence[str], inputs: bool) -> str:
    """What of the inputs a page with these parts has, in one sentence."""
    if not inputs:
        return f"{KEPT_OUT}. Names of labels and their classes, groups, layers and features, and what the study says of itself, are in it."
    if not parts:
        return "It holds no input values, tokens or contexts. Names of labels and their classes, groups, layers and features are in it."
    return f"Of what was read it holds {'; '.join(dict.fromkeys(parts))}."


def _data(study: Study, overview: Mapping[str, Any]) -> dict[str, str]:
    groups = f" from {counted(overview['groups'], 'group')}" if overview["groups"] else ""
    source = f" of {study.about['text']}" if "text" in study.about else ""
    certificate = overview["certificate"]
    state = certificate["state"]
    means = {
        "certified": "what was measured is what the network computed",
        "sampled": "what was measured is what the network computed, at a sample of steps",
        "partial": "not every signal could be checked",
        "uncertified": "that what was measured is what the network computed couldn’t be checked",
    }[state]
    return {
        "data": f"{counted(overview['steps'], 'step')} in {counted(overview['sequences'], 'sequence')}{groups}{source}, read by "
        f"{counted(overview['units'], 'unit')} in {counted(len(overview['layers']), 'recurrent layer')}.",
        "state": state,
        "certificate": f"{means}; recomputed by the equations it differs by {certificate['largest_difference']:.1e} at most "
        f"({certificate['tolerance']:.1e} is allowed).",
    }


def _lines(sections: Sequence[Section], kind: str) -> list[dict[str, str]]:
    return [{"section": one.name, "title": one.title, "said": said} for one in sections if (said := getattr(one, kind))]
