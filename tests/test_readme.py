"""What the README says, runs."""

import re
import shlex
import sys
from importlib.resources import files
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.S | re.M)


def test_the_python_blocks_run_one_after_the_other(capsys):
    matplotlib.use("agg")
    names = {}
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(block, "README.md", "exec"), names)
    assert capsys.readouterr().out.startswith("certified: ") and names["make"]().name == "mine"


def test_the_first_two_shell_blocks_are_one_line_each_and_use_the_constraints():
    first, second = [block for language, block in BLOCKS if language == "sh"][:2]
    for block in (first, second):
        # Not editable, the package in the folder would be run in place of the installed one, without its compiled kernels.
        assert block.count("\n") == 1 and "-c constraints.txt -e '.[" in block
    assert first.rstrip().endswith("-m lstm_explain.report") and second.rstrip().endswith("-m pytest -q -n auto --dist worksteal")


def test_the_report_command_takes_a_study_of_the_readers_own(tmp_path, monkeypatch, capsys):
    from lstm_explain.report.command import main

    (block,) = [block for language, block in BLOCKS if language == "sh" and "my_study" in block]
    python = "".join(block for language, block in BLOCKS if language == "python")
    (tmp_path / "my_study.py").write_text(python.partition("layer = ")[0].replace("lx.plot(", "("), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(block)[3:]) == 0
    assert (tmp_path / "reports" / "my_study-001" / "index.html").exists()
    sys.modules.pop("my_study")


def test_the_report_command_takes_a_model_and_files(tmp_path, monkeypatch, capsys):
    from lstm_explain.report.command import main

    (block,) = [block for language, block in BLOCKS if language == "sh" and "--model" in block]
    (tmp_path / "my_model.py").write_text(
        "import torch\n\n\ndef make():\n    return torch.nn.LSTM(2, 3, batch_first=True)\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    save_file(torch.nn.LSTM(2, 3).state_dict(), "w.safetensors")
    x = np.random.default_rng(0).normal(size=(6, 9, 2))
    np.savez("data.npz", x=x, lengths=[9, 9, 5, 9, 9, 7], rising=x[:, :, 0] > 0, patient=list("aabbcc"))
    assert main([*shlex.split(block)[3:], "--quiet"]) == 0
    assert (tmp_path / "reports" / "my_model-001" / "index.html").exists()
    sys.modules.pop("my_model")


def test_the_training_command_runs(tmp_path, monkeypatch):
    from lstm_explain.studies.python_source import corpus, train

    (block,) = [block for language, block in BLOCKS if language == "sh" and "python_source.train" in block]
    files = [corpus.SourceFile(f"{name}.py", f"def {name}(x):\n    return '{name}' * x\n" * 40) for name in ("a", "b", "c")]
    tiny = corpus.Corpus(tuple(files[:1]), tuple(files[1:2]), tuple(files[2:]), {}, "three small files")
    monkeypatch.setattr(train, "load", lambda: tiny)
    monkeypatch.setattr(train, "BATCH", 2)
    monkeypatch.setattr(train, "TIME", 16)
    monkeypatch.setattr(train, "PIECE", 64)
    monkeypatch.chdir(tmp_path)
    assert train.main([*shlex.split(block)[3:], "--steps", "3", "--quiet"]) == 0
    assert {path.name for path in (tmp_path / "weights").iterdir()} == {"checkpoint.pt", "weights.safetensors", "card.json"}


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_every_link_leads_somewhere(target):
    assert "://" in target or (Path(__file__).parents[1] / target).exists()


def test_the_example_is_a_page_of_this_package():
    page = (Path(__file__).parents[1] / "reports" / "example" / "index.html").read_text(encoding="utf-8")
    own = files("lstm_explain.report.viewer")
    assert all((own / name).read_text(encoding="utf-8") in page for name in ("viewer.js", "viewer.css"))
    (block,) = [block for language, block in BLOCKS if language == "sh" and "--study planted" in block]
    assert f"<code>python {block.split(maxsplit=1)[1].strip()}</code>" in page
