"""The options of a model and files, in place of a study."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lstm_explain.study import Study

_FILES = ("weights", "inputs", "lengths", "labels", "groups", "window", "features", "vocabulary", "model_arg")


def add(options: argparse.ArgumentParser) -> None:
    """Add them."""
    files = options.add_argument_group(
        "a model and files, without a study",
        "Of these only --model names code that is run. --lengths, --labels and --groups take a file (.npy, .npz, .safetensors, .csv), "
        "or else the name of an array or a column of the inputs' file.",
    )
    files.add_argument(
        "--model",
        type=_model,
        metavar="NAME",
        help="FILE.py:FACTORY or package.module:FACTORY that returns a model, called as model(inputs)",
    )
    files.add_argument(
        "--model-arg",
        type=_argument,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what the factory is called with: a JSON number, true, false, null, or text; may be repeated",
    )
    files.add_argument(
        "--weights", type=Path, metavar="FILE", help=".safetensors, or a state dict of torch.save; left out where the factory loads its own"
    )
    files.add_argument(
        "--inputs",
        type=Path,
        metavar="FILE",
        help=".npy, .npz, .safetensors: (batch, time, feature), whole numbers (batch, time), or one series (time, feature); .csv: a row "
        "for each step, with or without a header, a column `sequence` says which sequence it belongs to; .txt: characters, in UTF-8",
    )
    files.add_argument("--lengths", metavar="FILE|NAME", help="how many steps of each sequence are real (batch)")
    files.add_argument(
        "--labels",
        action="append",
        default=[],
        metavar="FILE|NAME",
        help="what is true after each step (batch, time), or of each sequence (batch); each array and column is a label; may be repeated",
    )
    files.add_argument("--groups", metavar="FILE|NAME", help="which sequences belong together (batch)")
    files.add_argument(
        "--features",
        type=lambda names: names.split(","),
        metavar="NAME,NAME",
        help="the columns of a .csv that the model reads, in order; left out, all but the labels, the group and the sequence",
    )
    files.add_argument("--window", type=_steps, metavar="N", help="cut one long series, or a text, into sequences of N steps")
    files.add_argument(
        "--vocabulary", type=Path, metavar="FILE.json", help="of a .txt: a list of its characters in the order of their numbers, or a map"
    )


def misfit(arguments: argparse.Namespace) -> str | None:
    """What is wrong with options that are each right."""
    extra = [f"--{name.replace('_', '-')}" for name in _FILES if getattr(arguments, name) not in (None, [])]
    if arguments.model is None:
        return f"argument {extra[0]}: needed --model beside it, got none" if extra else None
    if arguments.study is not None:
        return "argument --model: not allowed with argument --study"
    return "argument --model: needed --inputs beside it, got none" if arguments.inputs is None else None


def study(asked: argparse.Namespace) -> "Study":
    """The study that they make."""
    from lstm_explain.report.from_files import Files, study_of

    given = {name: getattr(asked, name) for name in _FILES if name != "model_arg"}
    return study_of(Files(model=asked.model, arguments=dict(asked.model_arg), **given))


def _model(text: str) -> str:
    module, _, function = text.rpartition(":")
    if module and function.isidentifier():
        return text
    raise argparse.ArgumentTypeError(f"needed FILE.py:FACTORY or package.module:FACTORY, got {text!r}")


def _argument(text: str) -> tuple[str, Any]:
    name, given, value = text.partition("=")
    if not given or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"needed NAME=VALUE, got {text!r}")
    try:
        read = json.loads(value)
    except json.JSONDecodeError:
        return name, value
    if isinstance(read, (dict, list)):
        raise argparse.ArgumentTypeError(f"needed a number, true, false, null or text for {name}, got {value!r}")
    return name, read


def _steps(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"needed a whole number of steps, got {text!r}")
    return int(text)
