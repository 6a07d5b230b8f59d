"""Every number that a reader sees is in `report.json`, to the digits that are shown."""

import re

import numpy as np
import pytest
from page_text import Text
from small_study import HOSTILE

CONSTANTS = (
    "95 %",
    "SHA-256",
    "255 levels",
    "at most 0.2 % of that range",
    "largest 1 %",
    "4 contexts",
    "24 steps before and 8 after",
    "with 8 to 256 nodes",
    "with 32 nodes",
    "p is at most 0.05",
    "eeded at least 9 groups, a third to choose units on and the others to test them, got 4",
    "eeded at least 6 sequences that can be read in a few seconds, got 2",
)
"""What is the same in every report of the kind, or counts what is missing: no result."""
YEAR = r"\b(?:19|20)\d\d\b(?=[;:.)])"


def numbers(value):
    """All numbers below a value, and how many there are of what is listed."""
    if isinstance(value, dict | list):
        yield float(len(value))
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield abs(float(value))


def strings(value):
    """Texts that are themselves in the sidecar under a name that isn't prose."""
    yield from (value["study"], value["device"], value["model"]["sha256"], str(value["inputs"]["sha256"]), *value["versions"].values())
    yield from (f"group {group}" if group.isdecimal() else group for group in value["sections"]["overview"]["loss_by_group"])


def unknown(text, known):
    """Numbers of a text that none of those known is to the digits shown, with what stands around them."""
    for found in re.finditer(r"(?<![\w.])[-+−]?(\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?)(\s?%)?(?!\w)", text):
        digits, exponent = found[1].rstrip(",").replace(",", ""), 0
        if "e" in digits:
            exponent = int(digits.partition("e")[2])
        unit = 10.0 ** (exponent - len(digits.partition("e")[0].partition(".")[2])) / (100 if found[2] else 1)
        value = float(digits) / (100 if found[2] else 1)
        at = np.searchsorted(known, value)
        if np.abs(known[max(at - 1, 0) : at + 1] - value).min() > 0.51 * unit:
            yield found[0], text[max(0, found.start() - 60) : found.end() + 40]


@pytest.mark.parametrize("study", ["make", "spelled", "bare", "gru", "planted"])
def test_every_number_on_the_page_is_in_the_sidecar(report_of, study):
    reported = report_of(study)
    sidecar = reported.sidecar
    sections = Text(reported.page.replace("\\u2028", "\u2028")).sections
    assert set(sections) == {"summary", "viewer", "again", *sidecar["sections"]}
    seen = 0
    for name, text in sections.items():
        # A section's numbers are its own; the first screen's are of any.
        own = sidecar["sections"].get(name) or {"viewer": sidecar["viewer"]}.get(name) or sidecar
        for known in (HOSTILE, *CONSTANTS, *sorted(set(strings(sidecar)), key=len, reverse=True)):
            text = text.replace(known, "…")
        text = re.sub(YEAR, "", re.sub(r"\s+", " ", text))
        seen += len(re.findall(r"\d+", text))
        assert not list(unknown(text, np.sort(list(numbers(own))))), name
    assert seen > 80


def test_a_number_that_is_in_no_sidecar_is_noticed():
    found = unknown("12 of 40 units, 3.1 %, 1.2e-07 and -0.250", np.array([1.23e-7, 0.2, 12.0, 40.0]))
    assert [number for number, _ in found] == ["3.1 %", "-0.250"]
