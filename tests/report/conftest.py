"""Reports that are made once, for all tests that only read them."""

import contextlib
import io
import json
from pathlib import Path
from typing import NamedTuple

import pytest

from lstm_explain.report.command import main

STUDIES = Path(__file__).parents[1] / "small_study.py"


class Reported(NamedTuple):
    """How the command ended, what it said, and the directory that it made."""

    code: int
    out: str
    err: str
    place: Path

    @property
    def sidecar(self):
        return json.loads((self.place / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)

    @property
    def sections(self):
        return self.sidecar["sections"]

    @property
    def page(self):
        return (self.place / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def report_of(tmp_path_factory):
    """The report on one of small_study.py's studies, by its name. A test that writes into it makes its own."""
    made = {}

    def report_of(study, *options):
        if (study, options) not in made:
            directory, out, err = tmp_path_factory.mktemp("reports"), io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(["--study", f"{STUDIES}:{study}", "--out", str(directory), "--quiet", *options])
            made[study, options] = Reported(code, out.getvalue(), err.getvalue(), directory / "small_study-001")
        return made[study, options]

    return report_of
