"""The command line: what was asked, who answers, and how it ends. Nothing heavy is imported before there is work to do."""

import argparse
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lstm_explain import __version__
from lstm_explain.errors import InputError, LstmExplainError, OutputError, first_line
from lstm_explain.report import file_options
from lstm_explain.report.formats import FORMATS, USUAL, formats, opened_first
from lstm_explain.report.interruptions import Interruptions
from lstm_explain.studies import STUDIES

if TYPE_CHECKING:
    from lstm_explain.report.directory import Aside

OK, BAD_INPUT, BAD_OUTPUT, UNEXPECTED, INTERRUPTED = 0, 3, 4, 70, 130
DEFAULT = "python_source"


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"needed a whole number from 0 to 2^32 - 1, got {text!r}")
    return int(text)


def _megabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 25:
        raise argparse.ArgumentTypeError(f"needed a number above 0, up to 25, got {text!r}")
    return value


def _study(text: str) -> str:
    module, _, function = text.rpartition(":")
    if text in STUDIES or (module and function.isidentifier()):
        return text
    raise argparse.ArgumentTypeError(f"needed one of {', '.join(STUDIES)}, or FILE.py:FUNCTION, got {text!r}")


def _formats(text: str) -> tuple[str, ...]:
    try:
        return formats(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m lstm_explain.report",
        description="Explain a recurrent network: one page that opens offline, its figures, and every number in report.json.",
        # Options stand at the foot of the page as they are called.
        allow_abbrev=False,
        epilog="Exit codes: 0 ok, 2 usage, 3 bad input or model, 4 input/output, 70 unexpected, 130 interrupted.",
    )
    options.add_argument(
        "--study",
        type=_study,
        metavar="NAME",
        help=f"a study by name, or FILE.py:FUNCTION or package.module:FUNCTION that returns a Study (default: {DEFAULT})",
    )
    file_options.add(options)
    options.add_argument(
        "--out", type=Path, default=Path("reports"), metavar="DIR", help="where the report's new directory is made (default: %(default)s)"
    )
    options.add_argument("--seed", type=_seed, default=0, metavar="N", help="draws which held-out text is read (default: %(default)s)")
    options.add_argument("--device", default="cpu", help="where the model runs: cpu, cuda, ... (default: %(default)s)")
    options.add_argument(
        "--thorough", action="store_true", help="hold every unit of every layer: a quarter of an hour for a bundled network"
    )
    options.add_argument(
        "--max-mb",
        type=_megabytes,
        default=5.0,
        metavar="MB",
        help="how large the page may become, up to 25: its viewer holds more steps and units then, and below its figures are coarser "
        "(default: %(default)g)",
    )
    options.add_argument(
        "--format",
        type=_formats,
        default=USUAL,
        metavar="LIST",
        help=f"what to write, of {','.join(FORMATS)}: the page, every number, each figure, all figures, the page as Markdown "
        f"(default: {','.join(USUAL)})",
    )
    options.add_argument("--no-inputs", action="store_true", help="keep input values, tokens and contexts out of page, figures and numbers")
    options.add_argument("--quiet", action="store_true", help="no progress bar")
    options.add_argument("-v", "--verbose", action="store_true", help="say how long each part took, and show tracebacks")
    options.add_argument("--version", action="version", version=f"lstm_explain {__version__}")
    options.add_argument("--list", action="store_true", help="list the studies that can be named, and stop")
    return options


def _again(argv: Sequence[str]) -> str:
    """The command as it was given, without where it writes to and what it says meanwhile."""
    given, left_out = iter(argv), ("--quiet", "-v", "--verbose")
    kept = [word for word in given if word not in left_out and not word.startswith("--out=") and not (word == "--out" and next(given))]
    return shlex.join(["python", "-m", "lstm_explain.report", *kept])


def _report(asked: argparse.Namespace, begun: "list[Aside]", interruptions: Interruptions) -> None:
    """Explain the study that was asked for, and write it where the one that is put into `begun` says."""
    # An interruption of this import would take all of Python down.
    interruptions.hold()
    import torch

    interruptions.hear()

    from lstm_explain.report import named
    from lstm_explain.report.directory import as_output_error, numbered
    from lstm_explain.report.explain import explain
    from lstm_explain.report.measure import Clock
    from lstm_explain.report.save import write

    clock = Clock()
    # A place that can't be written to is found before the work, not after it.
    with numbered(asked.out, named.stem(asked.model or asked.study or DEFAULT)) as aside:
        begun.append(aside)
        torch.manual_seed(asked.seed)
        with clock("study"):
            study = file_options.study(asked) if asked.model else named.make(asked.study or DEFAULT, asked.seed)
        report = explain(
            study,
            seed=asked.seed,
            device=asked.device,
            thorough=asked.thorough,
            max_mb=asked.max_mb,
            progress=False if asked.quiet else None,
            inputs=not asked.no_inputs,
            clock=clock,
            command=asked.again,
        )
        with clock("writing"), as_output_error(asked.out):
            write(aside.path, report, asked.format)
    if asked.verbose:
        clock.say(sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser()
    arguments = options.parse_args(argv)
    arguments.again = _again(sys.argv[1:] if argv is None else argv)
    if wrong := file_options.misfit(arguments):
        options.error(wrong)
    if arguments.list:
        print("\n".join(STUDIES))
        return OK
    # A value that another program left there, a notebook's for one, would stop matplotlib from loading.
    backend = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "agg"
    interrupted: list[int] = []

    def interrupt(number: int, _: object) -> NoReturn:
        interrupted.append(number)
        raise KeyboardInterrupt

    interruptions = Interruptions(interrupt)
    begun: list[Aside] = []
    try:
        _report(arguments, begun, interruptions)
        print(_written(begun, arguments))
    except KeyboardInterrupt:
        return _interrupted(begun, arguments)
    except Exception as error:
        # Where code was interrupted while it was imported, what comes out may be an error of its own.
        if interrupted:
            return _interrupted(begun, arguments)
        if isinstance(error, LstmExplainError):
            return _say(error, arguments.verbose, BAD_OUTPUT if isinstance(error, OutputError) else BAD_INPUT)
        hint = "" if arguments.verbose else "; run again with -v for where it happened"
        unexpected = InputError(f"unexpected {type(error).__name__}: {first_line(error)}{hint}")
        return _say(unexpected.with_traceback(error.__traceback__), arguments.verbose, UNEXPECTED)
    finally:
        if backend is None:
            del os.environ["MPLBACKEND"]
        else:
            os.environ["MPLBACKEND"] = backend
        interruptions.restore()
    return OK


def _written(begun: "list[Aside]", asked: argparse.Namespace) -> Path | None:
    """What a reader opens, of a report that is in its place."""
    place = begun[0].place if begun else None
    return None if place is None else opened_first(place, asked.format)


def _interrupted(begun: "list[Aside]", asked: argparse.Namespace) -> int:
    written = _written(begun, asked)
    print(f"interrupted: {'nothing was written' if written is None else f'{written} had been written'}", file=sys.stderr)
    return INTERRUPTED


def _say(error: Exception, verbose: bool, code: int) -> int:
    if verbose:
        traceback.print_exception(error)
    print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
    return code
