"""The command: what it prints, how it ends, and what it leaves behind."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import small_study

import lstm_explain as lx
from lstm_explain.report import directory, explain
from lstm_explain.report.command import main
from lstm_explain.report.named import stem

STUDIES = Path(__file__).parents[1] / "small_study.py"


@pytest.fixture
def run(tmp_path, capsys):
    def run(study, *options, out=tmp_path / "reports"):
        code = main(["--study", f"{STUDIES}:{study}", "--out", str(out), "--quiet", *options])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "lstm_explain.report", *map(str, arguments)], capture_output=True, text=True, timeout=120, **options
    )


def test_it_writes_a_report_and_prints_its_path(report_of):
    reported = report_of("make")
    assert (reported.code, reported.err) == (0, "")
    page = Path(reported.out.strip())
    assert page == reported.place / "index.html"
    names = {path.name for path in page.parent.rglob("*") if path.is_file()}
    figures = {
        "saturation_scatter",
        "saturation_histogram",
        "timescale_survival",
        "timescale_half_life",
        "timescale_retention",
        "unit_text",
        "attribution_1",
        "attribution_deletion",
        "attribution_agreement",
        "probing_scores",
        "probing_selectivity",
        "probing_units",
        "ablation_effects",
        "ablation_removal",
    }
    assert names == {"index.html", "report.json", "figures.pdf", "viewer.safetensors"} | {
        f"{name}.{kind}" for name in figures for kind in ("png", "svg")
    }
    assert os.stat(page.parent).st_mode & 0o777 == 0o777 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    "name, directory", [("planted", "planted"), ("a/b.c.py:make", "b.c"), ("package.module:make", "module"), ("module:make", "module")]
)
def test_a_directory_is_called_as_the_study(name, directory):
    assert stem(name) == directory


def test_it_never_overwrites(run, tmp_path):
    run("bare")
    before = (tmp_path / "reports" / "small_study-001" / "index.html").read_bytes()
    code, out, _ = run("nan_inputs")
    assert code == 0 and "small_study-002" in out
    assert (tmp_path / "reports" / "small_study-001" / "index.html").read_bytes() == before


def test_the_same_seed_gives_the_same_bytes(run, report_of):
    first, second = report_of("make").place, Path(run("make")[1].strip()).parent
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files and first != second
    for name in files:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_another_seed_gives_other_numbers(report_of):
    first, second = (report_of("drawn", "--seed", seed).sidecar for seed in ("0", "1"))
    assert first["inputs"]["sha256"] != second["inputs"]["sha256"]
    assert first["sections"]["saturation"] != second["sections"]["saturation"]


def test_the_foot_of_the_page_has_the_command_that_makes_it_again(run):
    again = f"python -m lstm_explain.report --study {STUDIES}:drawn --seed 3"
    code, out, _ = run("drawn", "-v", "--seed", "3")
    page = Path(out.strip())
    assert code == 0 and f"<code>{again}</code>" in page.read_text(encoding="utf-8")
    ended = command(*again.split()[3:], "--out", page.parents[1] / "again", "--quiet")
    assert Path(ended.stdout.strip()).read_bytes() == page.read_bytes()


def test_a_report_from_python_has_its_call_there():
    study = small_study.bare()
    assert lx.explain(study, progress=False).facts["again"] == "lx.explain(study)"
    assert lx.explain(study, progress=False, seed=2, inputs=False).facts["again"] == "lx.explain(study, seed=2, inputs=False)"


def test_verbose_says_how_long_each_part_took(run):
    _, _, err = run("bare", "-v")
    assert all(part in err for part in ("study", "recording", "saturation", "timescale", "writing", "in all"))


@pytest.mark.parametrize("study", ["stock", "bare", "constant_label", "nan_inputs"])
def test_studies_with_less_in_them_still_get_a_report(report_of, study):
    reported = report_of(study)
    assert (reported.code, reported.err) == (0, "") and reported.sidecar and reported.page


def test_padding_that_nobody_spoke_of_is_marked_unknown(report_of):
    sections = report_of("bare").sections
    assert sections["overview"]["coverage"]["padding"] == sections["saturation"]["padding"] == "unknown"
    assert "which steps are padding is unknown" in report_of("bare").page


@pytest.mark.parametrize(
    "study, code, message",
    [
        ("no_recurrence", 3, "needed a model with recurrent layers or cells, found none in Linear"),
        ("nan", 3, "needed finite weights, got 25 NaN or infinite values in lstm.weight_hh_l0 (input gate)"),
        ("empty", 3, "needed at least one step of at least one sequence, got inputs of shape (0, 4, 2)"),
        ("wrong_size", 3, "the model can't read the study's inputs of shape (1, 4, 5), float32: RuntimeError: input.size(-1)"),
        ("peephole_wrong_size", 3, "needed 2 features in the last axis (input_size), got 5"),
        ("peephole_wrong_dtype", 3, "needed an input of the weights' dtype torch.float32, got torch.float64"),
        ("raises", 3, 'failed: KeyError: "the data set isn\'t here"'),
        ("not_a_study", 3, "needed a Study from"),
        ("ragged", 3, "needed label 'even' of shape (8, 40), got rows of unequal length: what is beyond a sequence's length isn't read"),
        ("no_loss", 3, "the study's loss= failed on what the model returned: AttributeError: "),
        ("short_loss", 3, "needed loss= to return the loss of each step, (8, 40), got (8, 39)"),
        ("no_tensor_of_losses", 3, "needed loss= to return the loss of each step, (8, 40), got tuple"),
        ("no_output", 3, "needed a tensor to explain, got int: say how to get one with output="),
        ("wrong_target", 3, "needed target as whole numbers, a class or (step, class), got 'last'"),
        ("wrong_next_tokens", 3, "needed next_tokens for the output's 5 classes, got 2"),
        ("leaves", 3, "it ended Python: keep what a script does under `if __name__"),
        ("not_callable", 3, "needed a function not_callable"),
        ("absent", 3, "needed a function absent"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, tmp_path, study, code, message):
    got, out, err = run(study)
    assert (got, out) == (code, "")
    assert message in err and err.count("\n") == 1 and err.startswith("error: ")
    assert list((tmp_path / "reports").iterdir()) == []


@pytest.mark.parametrize("study", ["nowhere.py:make", "no.such.module:make"])
def test_a_study_that_is_not_there_is_one_line(tmp_path, capsys, study):
    assert main(["--study", study, "--out", str(tmp_path)]) == 3
    assert capsys.readouterr().err.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_a_device_that_is_not_there_is_one_line(run, tmp_path):
    code, _, err = run("bare", "--device", "nonsense")
    assert code == 3 and "needed a device that this machine has, got 'nonsense'" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--study", "pyton_source"], "needed one of python_source, python_source_lstm, planted, or FILE.py:FUNCTION, got 'pyton_source'"),
        (["--seed", "-1"], "needed a whole number from 0 to 2^32 - 1, got '-1'"),
        (["--seed", "x"], "needed a whole number"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_usage_errors_end_with_2_before_anything_heavy_loads(tmp_path, arguments, message):
    ended = command(*arguments, cwd=tmp_path)
    assert ended.returncode == 2 and message in ended.stderr and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--help", "--version", "--list"])
def test_help_loads_nothing_heavy(option):
    code = (
        "import sys\nfrom lstm_explain.report.command import main\n"
        f"try: main(['{option}'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'captum', 'scipy', 'jinja2'} & set(sys.modules)\nassert not heavy, heavy"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "python_source" in ended.stdout or "0.1" in ended.stdout


def test_an_out_that_is_a_file_or_cannot_be_made_is_one_line(run, tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        code, _, err = run("bare", out=out)
        assert code == 4 and err.startswith(f"error: can't write to {out}: ") and err.count("\n") == 1
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("size", [0, 8_000, 30_000, 75_000, 300_000])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, size):
    # Another size, another file that is too large: the first figure, its picture, a later one, the page.
    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    ended = command("--study", f"{STUDIES}:bare", "--out", tmp_path / "r", "--quiet", preexec_fn=full)
    assert ended.returncode == 4 and ended.stderr == f"error: can't write to {tmp_path / 'r'}: File too large\n"
    assert list((tmp_path / "r").iterdir()) == []


def interruptible(out, *options, sent=signal.SIGINT):
    """A command that has begun, and that a signal reaches: a shell's background jobs ignore SIGINT, and so would all that they start."""
    return subprocess.Popen(
        [sys.executable, "-m", "lstm_explain.report", "--out", str(out), "--quiet", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(sent, signal.SIG_DFL),
    )


@pytest.mark.long
def test_an_interruption_at_any_moment_leaves_nothing_or_all(tmp_path):
    study = ("--study", f"{STUDIES}:bare")
    began = time.monotonic()
    assert command(*study, "--out", tmp_path / "whole", "--quiet").returncode == 0
    whole = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*")}
    takes = time.monotonic() - began
    # Python's own beginning, before there is a command, is Python's to interrupt.
    for at, share in enumerate(np.linspace(0.1, 1.0, 12)):
        out = tmp_path / f"r{at}"
        process = interruptible(out, *study)
        time.sleep(share * takes)
        process.send_signal(signal.SIGINT)
        said, err = process.communicate(timeout=120)
        left = {path.relative_to(out) for path in out.rglob("*")} if out.exists() else set()
        if left:
            assert left == whole and process.returncode in (0, 130), (share, err)
        else:
            assert process.returncode == 130 and said == "" and err in ("interrupted: nothing was written\n", "interrupted\n"), (share, err)


def test_an_interruption_while_a_report_is_put_in_its_place_is_heard_after_it(run, monkeypatch, tmp_path):
    rename = directory._rename

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return rename(*arguments)

    monkeypatch.setattr(directory, "_rename", interrupted)
    before = signal.getsignal(signal.SIGINT)
    code, out, err = run("bare")
    page = tmp_path / "reports" / "small_study-001" / "index.html"
    assert (code, out, err) == (130, "", f"interrupted: {page} had been written\n")
    assert page.exists() and [path.name for path in (tmp_path / "reports").iterdir()] == ["small_study-001"]
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interruption_while_a_report_is_removed_does_not_stop_that(run, monkeypatch, tmp_path):
    remove = shutil.rmtree

    def interrupted(path, **options):
        signal.raise_signal(signal.SIGINT)
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    assert run("raises") == (130, "", "interrupted: nothing was written\n")
    assert list((tmp_path / "reports").iterdir()) == []


def test_two_reports_into_one_directory_at_once_are_both_there(tmp_path):
    both = [interruptible(tmp_path, "--study", f"{STUDIES}:bare") for _ in range(2)]
    ended = [process.communicate(timeout=120) + (process.returncode,) for process in both]
    assert [one[1:] for one in ended] == [("", 0)] * 2
    pages = sorted(Path(one[0].strip()) for one in ended)
    assert pages == [tmp_path / f"small_study-00{n}" / "index.html" for n in (1, 2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small_study-001", "small_study-002"]
    assert pages[0].read_bytes() == pages[1].read_bytes()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_with_130_and_leaves_nothing(tmp_path, sent):
    out = tmp_path / "r"
    process = interruptible(out, "--study", f"{STUDIES}:slow", sent=sent)
    deadline = time.monotonic() + 60
    while not (out.exists() and list(out.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "interrupted: nothing was written\n"
    assert list(out.iterdir()) == []


def test_something_unexpected_ends_with_70(run, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("no\nreally")

    monkeypatch.setattr(explain, "measure", broken)
    code, out, err = run("bare")
    assert (code, out) == (70, "") and err == "error: unexpected ZeroDivisionError: no; run again with -v for where it happened\n"
    assert "Traceback" in run("bare", "-v")[2]
    assert list((tmp_path / "reports").iterdir()) == []


@pytest.mark.parametrize(
    "study, section, finding",
    [
        ("bare", "probing", "Nothing is probed for: the study has no labels."),
        ("bare", "attribution", "No output is explained: the study doesn't say which output to explain: give it target= or places=."),
        (
            "one_group",
            "probing",
            "Nothing is probed for: the study has one group only, and probes are scored on groups that they haven't seen.",
        ),
        ("constant_label", "probing", "Nothing is probed for: needed at least two values of label 'never', got only 0."),
        ("bare_parameters", "probing", "1 labels were probed for, but not controlled: nothing follows from these scores."),
        ("one_sequence", "ablation", "No unit is held: needed at least two sequences, which give each other their values, got 1"),
        ("detached", "attribution", "No output is explained: needed a gradient from the output to the inputs, got none"),
    ],
)
def test_what_can_not_be_asked_says_why_and_the_rest_stands(report_of, study, section, finding):
    reported = report_of(study)
    found = reported.sections
    assert (reported.code, reported.err) == (0, "")
    assert found[section]["finding"].startswith(finding)
    assert found["saturation"]["units_saturated_more_than_half"]["of"] > 0


def test_a_label_that_can_not_be_fitted_leaves_the_others(report_of):
    found = report_of("rare_label").sections["probing"]
    assert set(found["labels"]) == {"even"} and "one" in found["missing"]["once"]


def test_a_target_is_explained_in_the_first_sequences(report_of):
    places = report_of("target").sections["attribution"]["places"]
    assert [(place["sequence"], place["target"]) for place in places] == [(0, [-1, 2]), (1, [-1, 2]), (2, [-1, 2])]


def test_a_study_is_found_as_a_module_too_and_a_bad_mplbackend_in_the_environment_does_not_matter(tmp_path):
    environment = os.environ | {"MPLBACKEND": "no-such-backend"}
    ended = command("--study", "small_study:bare", "--out", tmp_path, cwd=STUDIES.parent, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "small_study-001" / "index.html").exists()
