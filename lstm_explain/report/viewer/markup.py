"""The viewer's part of a page: its elements, its style and its one script."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lstm_explain.analyses.selection.select import THRESHOLD
from lstm_explain.display import number
from lstm_explain.report.measure import AFTER, BEFORE, CONTEXTS
from lstm_explain.report.viewer.packed import LEVELS, Packed
from lstm_explain.report.viewer.painted import BLOCK
from lstm_explain.report.viewer.view import View
from lstm_explain.report.words import counted


class Part(NamedTuple):
    """What goes into a page."""

    html: Markup
    css: str
    script: str
    units: Mapping[str, Sequence[int]]
    """Those that it holds, by layer."""


def part(packed: Packed) -> Part:
    """The viewer of what was packed."""
    view = packed.view
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # Escaping would change what the script reads; that there is no "<" in the JSON, and only base64 in the blocks, is what packing sees to.
    safe = packed._replace(island=Markup(packed.island), blocks={name: Markup(block) for name, block in packed.blocks.items()})
    html = environment.from_string(_own("viewer.html.jinja")).render(
        packed=safe, intro=_intro(view, packed), method=_method(view), cut=_cut(packed), threshold=THRESHOLD
    )
    return Part(Markup(html), _own("viewer.css"), _own("viewer.js"), packed.facts["units"])


@cache
def _own(name: str) -> str:
    return (files("lstm_explain.report.viewer") / name).read_text(encoding="utf-8")


def _intro(view: View, packed: Packed) -> str:
    shown = "text" if view.tokens is not None else "series" if view.series is not None else "steps, without what was read,"
    return (
        f"Every colour is what one unit of the network held after reading that step. Here are {number(view.steps)} steps of {shown} from "
        f"{counted(len(view.pieces), 'sequence')}, with {counted(packed.facts['units_shown'], 'unit')}: "
        "choose one by list, by number or in the scatter, and a signal; the line below says what stands at the cursor."
    )


def _method(view: View) -> str:
    contexts = (
        f" The {number(CONTEXTS)} contexts at either end are the highest and the lowest places of each unit over all sequences, "
        f"{number(BEFORE)} steps before and {number(AFTER)} after; they were picked because they are extreme."
        if view.contexts is not None
        else ""
    )
    return (
        f"The sequences were recorded again, certified as above. Values are shown in {LEVELS + 1} levels from a gate’s 0 to 1, or from a "
        "state’s largest size downwards to upwards, an error of at most 0.2 % of that range; exact ones are in viewer.safetensors. Colours "
        "have one scale for all units of a layer, from which the largest 1 % of a state without bounds stick out. The rank is among the "
        "layer’s units in this page, by these levels, the highest first; equal ones share the better. Gold is a value that isn’t finite."
        f"{contexts}{_why(view)}"
    )


def _why(view: View) -> str:
    if isinstance(view.why, str):
        return f" What an output hangs on isn’t shown: {view.why}." if view.why else ""
    each = "the output of each sequence" if view.why.whole else "an output"
    outputs = sum(len(part.output) for part in view.why.parts)
    after = " and as many after it" if view.why.ahead else ""
    unknown = any(np.isnan(part.residual).any() for part in view.why.parts)
    return (
        f" What {each} hangs on is {view.why.what}, less the same with a step replaced by the baseline, one at a time (occlusion: Zeiler & "
        f"Fergus 2014); red raised it. Asked were {counted(outputs, 'output')}"
        + ("" if view.why.whole else f", each about the last {BLOCK} to {2 * BLOCK} steps up to it{after}, as far as there are so many")
        + ". Such contributions don’t claim to add up: beside them stands what replacing all of these steps together does beyond their sum"
        + (", where the model can read the sequence without them." if unknown else ".")
    )


def _cut(packed: Packed) -> str:
    facts, view = packed.facts, packed.view
    units = (
        f"all {number(facts['units_in_all'])} units"
        if facts["units_shown"] == facts["units_in_all"]
        else f"{number(facts['units_shown'])} of {number(facts['units_in_all'])} units: those that claims were made about, or that are "
        "first in one of the orders"
    )
    steps = f"all {number(view.steps)} steps" if view.steps == view.all_steps else f"{number(view.steps)} of {number(view.all_steps)} steps"
    whole = view.steps == view.all_steps and facts["units_shown"] == facts["units_in_all"]
    contexts = " No unit’s contexts are in it." if view.inputs and view.contexts is None else ""
    return f"Here are {steps} and {units}.{contexts}{'' if whole else ' A larger page, by --max-mb, holds more.'}"
