"""What is written is what was asked for, and nothing else."""

import re
from pathlib import Path

import pytest
import small_study

import lstm_explain as lx
from lstm_explain.report.command import main
from lstm_explain.report.formats import FORMATS, USUAL

ALONE = {
    "html": {"index.html"},
    "json": {"report.json", "viewer.safetensors"},
    "pdf": {"figures.pdf"},
    "md": {"report.md"},
    "svg": {"figures"},
    "png": {"figures"},
}


@pytest.fixture(scope="module")
def report():
    return lx.explain(small_study.bare(), progress=False)


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_alone(report, tmp_path, kind):
    opened = report.save(tmp_path / "mine", formats=kind)
    assert {path.name for path in (tmp_path / "mine").iterdir()} == ALONE[kind]
    assert opened == tmp_path / "mine" / min(ALONE[kind])
    if ALONE[kind] == {"figures"}:
        assert {path.suffix for path in opened.iterdir()} == {f".{kind}"}
    # What isn't beside the page isn't spoken of on it.
    if kind == "html":
        page = opened.read_text(encoding="utf-8")
        assert "figures/" not in page and "are in <code>report.json" not in page and "figures.pdf" not in page


def test_a_text_and_a_sequence_are_the_same(report, tmp_path):
    for name, asked in (("one", "md, json"), ("two", ["json", "md", "md"])):
        assert report.save(tmp_path / name, formats=asked).name == "report.md"
    made = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert made[0] == made[1] and set(made[0]) == {"report.json", "report.md", "viewer.safetensors"}


def test_all_but_markdown_is_usual(report, tmp_path):
    assert {path.name for path in report.save(tmp_path / "mine").parent.iterdir()} == {
        "index.html", "report.json", "viewer.safetensors", "figures.pdf", "figures",
    }  # fmt: skip
    assert set(USUAL) == set(FORMATS) - {"md"}


@pytest.mark.parametrize("asked, got", [("html,doc", "'doc'"), ([], "none"), ("", "''"), ("HTML", "'HTML'")])
def test_one_that_is_not_known_is_refused_and_nothing_is_written(report, tmp_path, asked, got):
    with pytest.raises(lx.InputError, match=f"^needed .*format.*, got {re.escape(got)}$"):
        report.save(tmp_path / "mine", formats=asked)
    assert not (tmp_path / "mine").exists()


def test_the_command_refuses_it_in_one_line_before_any_work(tmp_path, capsys):
    study = f"{small_study.__file__}:raises"
    with pytest.raises(SystemExit) as ended:
        main(["--study", study, "--out", str(tmp_path / "reports"), "--format", "html,doc"])
    assert ended.value.code == 2 and not (tmp_path / "reports").exists()
    said = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(said) == 1 and said[0].endswith("error: argument --format: needed formats among html, json, png, svg, pdf, md, got 'doc'")


def test_the_command_prints_what_is_opened_first(report_of):
    reported = report_of("bare", "--format", "md,json")
    assert Path(reported.out.strip()) == reported.place / "report.md" and reported.code == 0


@pytest.fixture(scope="module")
def markdown(report_of):
    return report_of("spelled", "--format", "md,svg").place


def test_markdown_has_the_first_screen_the_findings_the_tables_and_the_figures(report_of, markdown):
    text, sidecar = (markdown / "report.md").read_text(encoding="utf-8"), report_of("spelled", "--format", "json").sidecar
    assert text.startswith("# speller\n\nA speller.\n")
    assert f"## {sidecar['summary']['tested']} tested, {sidecar['summary']['verified']} verified" in text
    plain = re.sub(r"&#(\d+);", lambda found: chr(int(found[1])), text)
    for leg in sidecar["summary"]["claims"][0]["legs"]:
        assert f"{leg['value']} ({leg['control']}): {leg['verdict']}" in plain
    for section in sidecar["sections"].values():
        assert f"## {section['title']}\n\n{section['finding']}" in plain
    linked = re.findall(r"!\[[^\]]+\]\((figures/\w+\.svg)\)", text)
    assert {f"figures/{path.name}" for path in (markdown / "figures").iterdir()} == set(linked) and len(linked) > 5
    # Every row of a table has as many cells as its head.
    tables = re.findall(r"((?:^\|.*\|\n)+)", text, re.MULTILINE)
    assert len(tables) >= 3
    for table in tables:
        assert len({row.count(" | ") for row in table.replace("|  |", "| - |").splitlines() if "---" not in row}) == 1


def test_markdown_without_figures_says_what_they_show(report_of):
    text = (report_of("bare", "--format", "md,json").place / "report.md").read_text(encoding="utf-8")
    assert "![" not in text and "half-lives" in text
