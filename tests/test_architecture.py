"""The house stands: what loads when, and what the package carries."""

import subprocess
import sys
from importlib.resources import files

import lstm_explain as lx


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, lstm_explain\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'captum', 'sklearn', 'scipy', 'pandas'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_recording_and_asking_load_neither_matplotlib_nor_captum_nor_scikit_learn():
    code = (
        "import sys, torch, lstm_explain as lx\nmodel = lx.PeepholeLSTM(2, 3)\n"
        "with lx.record(model) as recording: model(torch.zeros(4, 1, 2))\n"
        "lx.saturation(recording), lx.timescale(recording)\n"
        "heavy = {'matplotlib', 'captum', 'sklearn', 'pandas'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there_and_documented():
    for name in lx.__all__:
        value = getattr(lx, name)
        assert name == "__version__" or value.__doc__, name
    assert set(lx.__all__) <= set(dir(lx))


def test_a_name_that_is_not_there_is_said_so():
    try:
        lx.recrod  # noqa: B018
    except AttributeError as error:
        assert "recrod" in str(error)
    else:
        raise AssertionError


def test_the_package_carries_what_it_needs():
    for room, name in [
        ("lstm_explain", "py.typed"),
        ("lstm_explain.plots", "lstm_explain.mplstyle"),
        ("lstm_explain.report", "page.html.jinja"),
        ("lstm_explain.report", "page.css"),
        ("lstm_explain.report", "schema.json"),
        ("lstm_explain.report", "summary.html.jinja"),
        ("lstm_explain.report.viewer", "viewer.js"),
        ("lstm_explain.report.viewer", "viewer.css"),
        ("lstm_explain.report.viewer", "viewer.html.jinja"),
        ("lstm_explain.studies.python_source", "weights.safetensors"),
        ("lstm_explain.studies.python_source", "card.json"),
        ("lstm_explain.studies.python_source", "weights_lstm.safetensors"),
        ("lstm_explain.studies.python_source", "card_lstm.json"),
    ]:
        assert (files(room) / name).is_file(), name
    for name in ("weights.safetensors", "weights_lstm.safetensors"):
        assert (files("lstm_explain.studies.python_source") / name).stat().st_size <= 4 * 2**20  # type: ignore[attr-defined]
