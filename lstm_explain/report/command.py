"""The command line: what was asked, who answers, and how it ends. Nothing heavy is imported before there is work to do."""

import argparse
import contextlib
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from lstm_explain import __version__
from lstm_explain.errors import InputError, LstmExplainError, OutputError, first_line
from lstm_explain.report.formats import FORMATS, USUAL, formats
from lstm_explain.studies import STUDIES

OK, BAD_INPUT, BAD_OUTPUT, UNEXPECTED, INTERRUPTED = 0, 3, 4, 70, 130


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
        epilog="Exit codes: 0 ok, 2 usage, 3 bad input or model, 4 input/output, 70 unexpected, 130 interrupted.",
    )
    options.add_argument(
        "--study",
        type=_study,
        default="python_source",
        metavar="NAME",
        help="a study by name, or FILE.py:FUNCTION or package.module:FUNCTION that returns a Study (default: %(default)s)",
    )
    options.add_argument(
        "--out", type=Path, default=Path("reports"), metavar="DIR", help="where the report's new directory is made (default: %(default)s)"
    )
    options.add_argument("--seed", type=_seed, default=0, metavar="N", help="draws which held-out text is read (default: %(default)s)")
    options.add_argument("--device", default="cpu", help="where the model runs: cpu, cuda, ... (default: %(default)s)")
    options.add_argument("--thorough", action="store_true", help="hold every unit of every layer: six minutes for a bundled network")
    options.add_argument(
        "--max-mb",
        type=_megabytes,
        default=5.0,
        metavar="MB",
        help="how large the page may become, up to 25: its viewer holds more steps and units then (default: %(default)g)",
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


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _report(asked: argparse.Namespace) -> Path:
    """Explain the study that was asked for, and write it; returns the page."""
    import torch

    from lstm_explain.report import named
    from lstm_explain.report.directory import as_output_error, numbered
    from lstm_explain.report.explain import explain
    from lstm_explain.report.measure import Clock
    from lstm_explain.report.save import opened_first, write

    clock = Clock()
    # A place that can't be written to is found before the work, not after it.
    with numbered(asked.out, named.stem(asked.study)) as aside:
        torch.manual_seed(asked.seed)
        with clock("study"):
            study = named.make(asked.study, asked.seed)
        report = explain(
            study,
            seed=asked.seed,
            device=asked.device,
            thorough=asked.thorough,
            max_mb=asked.max_mb,
            progress=False if asked.quiet else None,
            inputs=not asked.no_inputs,
            clock=clock,
        )
        with clock("writing"), as_output_error(asked.out):
            write(aside.path, report, asked.format)
    if asked.verbose:
        clock.say(sys.stderr)
    return opened_first(aside.place, asked.format)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = parser().parse_args(argv)
    if arguments.list:
        print("\n".join(STUDIES))
        return OK
    # A value that another program left there, a notebook's for one, would stop matplotlib from loading.
    backend = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "agg"
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        place = _report(arguments)
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return INTERRUPTED
    except LstmExplainError as error:
        return _say(error, arguments.verbose, BAD_OUTPUT if isinstance(error, OutputError) else BAD_INPUT)
    except Exception as error:
        hint = "" if arguments.verbose else "; run again with -v for where it happened"
        unexpected = InputError(f"unexpected {type(error).__name__}: {first_line(error)}{hint}")
        return _say(unexpected.with_traceback(error.__traceback__), arguments.verbose, UNEXPECTED)
    finally:
        if backend is None:
            del os.environ["MPLBACKEND"]
        else:
            os.environ["MPLBACKEND"] = backend
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, before)
    print(place)
    return OK


def _say(error: Exception, verbose: bool, code: int) -> int:
    if verbose:
        traceback.print_exception(error)
    print(f"error: {error}", file=sys.stderr)
    return code
