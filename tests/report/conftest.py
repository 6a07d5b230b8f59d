"""Reports that are made once, for all tests that only read them."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from lstm_explain import studies as bundled
from lstm_explain.report.command import main
from lstm_explain.report.named import stem

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
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
    """The report on one of small_study.py's studies, or any that the command knows. A test that writes into it makes its own."""
    made = {}

    def report_of(study, *options):
        if (study, options) not in made:
            directory, out, err = tmp_path_factory.mktemp("reports"), io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                named = study if ":" in study or study in bundled.STUDIES else f"{STUDIES}:{study}"
                code = main(["--study", named, "--out", str(directory), "--quiet", *options])
            made[study, options] = Reported(code, out.getvalue(), err.getvalue(), directory / f"{stem(named)}-001")
        return made[study, options]

    return report_of


@pytest.fixture(scope="session")
def browser():
    """A real one, without a window."""
    if CHROMIUM is None:
        pytest.skip("needs a Chromium on the path (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.fixture
def opened(browser):
    """Open a page that has a viewer; in the end, nothing was said on any console and nothing was asked for."""
    contexts, said, asked = [], [], []

    def opened(address, before="", **options):
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        if before:
            tab.add_init_script(before)
        tab.goto(address)
        tab.wait_for_selector("#viewer[data-ready]")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert all(url.startswith(("file:", "data:", "about:", "blob:")) for url in asked)
