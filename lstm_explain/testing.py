"""Conformance checks for other people's models: does `lstm_explain` see what your model does, and leave it as it is?

In the manner of scikit-learn's ``check_estimator``: each check has a name, and one that fails says what to do.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lstm_explain.display import table
from lstm_explain.errors import CertificateError, InputError, LstmExplainError, RecordingError, first_line
from lstm_explain.nn.lstm import PeepholeLSTMCell
from lstm_explain.recording.cells import REGISTERED
from lstm_explain.recording.recording import Recording
from lstm_explain.recording.runner import record
from lstm_explain.recording.stack import random_state

OnFail = Literal["raise", "warn", "return"]


class Check(NamedTuple):
    """One check: its name, what came of it, and why it failed or was left out, with what to do."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    message: str = ""


@dataclass(frozen=True, repr=False)
class Checks:
    """All checks of one model or cell."""

    of: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether none failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """Those that failed."""
        return tuple(check for check in self.checks if check.status == "failed")

    def __repr__(self) -> str:
        lines = [f"{check.status:8}{check.name}{f': {check.message}' if check.message else ''}" for check in self.checks]
        return "\n".join([f"<Checks of {self.of}: {len(self.failed)} of {len(self.checks)} failed>", *lines])

    def _repr_html_(self) -> str:
        return table(f"{self.of}: {len(self.failed)} of {len(self.checks)} checks failed", ("check", "status", "what to do"), self.checks)


class _Failed(Exception):
    """A check that failed; its message says what to do."""


class _Skipped(Exception):
    """A check that can't be made here; its message says why."""


def _need(holds: bool, message: str) -> None:
    if not holds:
        raise _Failed(message)


def _run(of: str, checks: Mapping[str, Callable[[], None]], on_fail: OnFail) -> Checks:
    if on_fail not in ("raise", "warn", "return"):
        raise InputError(f'needed on_fail="raise", "warn" or "return", got {on_fail!r}')
    found: list[Check] = []
    ended: str | None = None
    for name, check in checks.items():
        if ended:
            found.append(Check(name, "skipped", f"until {ended} passes"))
            continue
        try:
            check()
            found.append(Check(name, "passed"))
        except _Skipped as skipped:
            found.append(Check(name, "skipped", str(skipped)))
        except _Failed as failed:
            found.append(Check(name, "failed", str(failed)))
        except Exception as error:
            # Nothing that comes after could run: what was raised is ours, in our words, or the model's own.
            ended, own = name, isinstance(error, LstmExplainError)
            found.append(Check(name, "failed", first_line(error) if own else f"it raised {type(error).__name__}: {first_line(error)}"))
    result = Checks(of, tuple(found))
    if result.failed and on_fail == "raise":
        raise AssertionError("; ".join(f"{check.name}: {check.message}" for check in result.failed))
    if result.failed and on_fail == "warn":
        for one in result.failed:
            warnings.warn(f"{one.name}: {one.message}", UserWarning, stacklevel=3)
    return result


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(one, other, strict=True)
    )


def _traces(model: nn.Module) -> list[Any]:
    """What recording could leave behind in a model."""
    hooks = [name for name in vars(nn.Identity()) if "hooks" in name]
    return [
        (name, sorted(vars(module)), [len(vars(module).get(hook, ())) for hook in hooks], module.training)
        for name, module in model.named_modules()
    ] + [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]


def check_record(model: nn.Module, *inputs: Any, on_fail: OnFail = "raise", **keywords: Any) -> Checks:
    """Check that a model of yours can be recorded, and that recording leaves it as it is.

    The model is run several times, in the mode that it is in; parameters and gradients are left as they were, buffers (running
    statistics) as several runs leave them.

    Parameters
    ----------
    model : torch.nn.Module
    *inputs, **keywords
        What the model is called with.
    on_fail : {"raise", "warn", "return"}
        What to do if checks fail: an AssertionError that names them, a warning for each, or nothing but the result.

    Returns
    -------
    Checks

    Raises
    ------
    AssertionError
        If checks failed.
    InputError
        If `model` isn't a module, or `on_fail` isn't one of the three.

    Examples
    --------
    >>> import torch
    >>> from lstm_explain.testing import check_record
    >>> check_record(torch.nn.GRU(8, 16, batch_first=True), torch.zeros(4, 10, 8)).passed
    True
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"needed a torch.nn.Module, got {type(model).__name__}")
    state = torch.get_rng_state()
    before: list[Any] = []

    def call() -> Any:
        return model(*inputs, **keywords)

    def plain() -> tuple[list[Tensor], Tensor]:
        with random_state(state):
            return [tensor.detach().clone() for tensor in _tensors(call())], torch.get_rng_state()

    def recorded() -> tuple[list[Tensor], Tensor, Recording]:
        with random_state(state), _recorded(model) as recording:
            found = [tensor.detach().clone() for tensor in _tensors(call())]
            return found, torch.get_rng_state(), recording

    def gradients(watch: bool) -> list[Tensor] | None:
        kept = {name: parameter.grad for name, parameter in model.named_parameters()}
        model.zero_grad(set_to_none=True)
        try:
            with random_state(state), torch.enable_grad():
                with _recorded(model) if watch else nullcontext():
                    outputs = [tensor for tensor in _tensors(call()) if tensor.requires_grad]
                if not outputs:
                    return None
                torch.stack([output.float().square().sum() for output in outputs]).sum().backward()
            return [torch.zeros(()) if p.grad is None else p.grad.clone() for p in model.parameters()]
        finally:
            for name, parameter in model.named_parameters():
                parameter.grad = kept[name]

    def check_it_runs() -> None:
        plain()
        before.extend(_traces(model))  # only now: what a model sets in its first pass is its own

    def check_recording_is_certified() -> None:
        certificate = recorded()[2].certificate
        _need(certificate.state == "certified", f"{certificate}; register the equations of a cell of your own with lx.register")

    def check_every_recurrent_module_can_be_opened() -> None:
        coverage = recorded()[2].coverage
        _need(not coverage.not_opened, str(coverage))

    def check_every_layer_is_called() -> None:
        missed = recorded()[2].coverage.never_called
        _need(not missed, f"never called: {', '.join(missed)}; give inputs that use them, or look for a pass that goes round `forward`")

    def check_outputs_are_the_same_bit_for_bit() -> None:
        if not plain()[0]:
            raise _Skipped("no tensors in what it returns: return tensors, or tuples, lists or dicts of them")
        _need(
            _same(plain()[0], plain()[0]),
            "two plain passes with one random state differ: take randomness from torch's generator, and reset a state that it carries on",
        )
        _need(_same(plain()[0], recorded()[0]), "outputs differ; does the model look at its layers' `forward`, or at their class?")

    def check_random_state_moves_as_it_would_have() -> None:
        _need(
            torch.equal(plain()[1], recorded()[1]),
            "the random state differs afterwards; does the model draw while its weights are read?",
        )

    def check_gradients_are_the_same_bit_for_bit() -> None:
        if (expected := gradients(False)) is None:
            raise _Skipped("no output depends on a parameter")
        found = gradients(True)
        _need(found is not None and _same(expected, found), "gradients of the parameters differ between a plain and a recorded pass")

    def check_nothing_is_left_behind() -> None:
        recorded()
        _need(
            _traces(model) == before,
            "forward methods, hooks, modes or requires_grad differ; does the model change them itself?",
        )

    def check_recording_twice_gives_the_same() -> None:
        one, other = recorded()[2], recorded()[2]
        for name, trajectory in one.items():
            pairs = [(signal, other[name].signals[key]) for key, signal in trajectory.signals.items()]
            _need(
                all(_same([a], [b]) for a, b in pairs),
                f"{name} differs; does the model carry a state from pass to pass? Reset it",
            )

    def check_padding_is_known() -> None:
        if recorded()[2].coverage.padding == "unknown":
            raise _Skipped("padding: unknown; if sequences have different lengths, give lx.record(model, lengths=...)")

    return _run(type(model).__name__, _named(locals()), on_fail)


@contextmanager
def _recorded(model: nn.Module) -> Iterator[Recording]:
    """A recording that doesn't warn if it stays empty: there is a check for that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "nothing was recorded")
        with record(model) as recording:
            yield recording


def _named(inside: Mapping[str, Any]) -> dict[str, Callable[[], None]]:
    return {name: value for name, value in inside.items() if name.startswith("check_")}


def check_cell(cell: nn.Module, *inputs: Any, steps: int = 5, on_fail: OnFail = "raise") -> Checks:
    """Check that a cell's equations, as `lstm_explain.register` knows them, are what it computes.

    A copy of the cell in float64 and evaluation mode is run; the cell itself isn't touched.

    Parameters
    ----------
    cell : torch.nn.Module
        A cell of a class that is registered, or one of PyTorch's or ours.
    *inputs
        One call of it, as you write it: ``x, h`` or ``x, (h, c)`` or ``x, h, c``, batched. Drawn from `cell.input_size` and
        `cell.hidden_size` if left out.
    steps : int
        How many steps to take.
    on_fail : {"raise", "warn", "return"}
        As in `check_record`.

    Returns
    -------
    Checks

    Raises
    ------
    AssertionError
        If checks failed.
    InputError
        If `cell` isn't a module, or no call is given and the cell doesn't say its sizes.

    Examples
    --------
    >>> import torch
    >>> from lstm_explain.testing import check_cell
    >>> check_cell(torch.nn.LSTMCell(3, 4)).passed
    True
    """
    if not isinstance(cell, nn.Module):
        raise InputError(f"needed a torch.nn.Module, got {type(cell).__name__}")
    exact = copy.deepcopy(cell).double().eval()
    x, *state = _like(inputs or _drawn(cell), torch.Generator().manual_seed(0))

    def take(size: float = 1.0, rows: slice = slice(None)) -> tuple[list[list[Tensor]], Recording]:
        """Some steps from the given state: the states after each, and their recording."""
        generator = torch.Generator().manual_seed(1)
        now = tree_map(lambda tensor: tensor[rows].clone(), state)  # some cells write into it
        after = []
        with torch.no_grad(), record(exact) as recording:
            for _ in range(steps):
                returned = exact(_like(x, generator, size)[rows], *now)
                now = _state_of(returned, now)
                after.append(_tensors(now))
        return after, recording

    def check_its_class_is_known() -> None:
        if not any(isinstance(cell, kind) for kind in (*REGISTERED, nn.LSTMCell, nn.GRUCell, nn.RNNCell, PeepholeLSTMCell)):
            kind = type(cell).__name__
            raise InputError(f"needed a cell of a class that is known, got {kind}: lx.register({kind}, equations)")

    def check_equations_give_what_it_returns() -> None:
        take()

    def check_equations_hold_at_the_ends_of_the_gates() -> None:
        take(size=30.0)

    def check_gates_lie_between_0_and_1() -> None:
        for trajectory in take(size=30.0)[1].values():
            for gate in trajectory.gates:
                lowest, highest = (float(end) for end in trajectory.signal(gate).aminmax())
                _need(
                    0 <= lowest and highest <= 1,
                    f"{gate} is from {lowest:.3g} to {highest:.3g}: give it another name",
                )

    def check_steps_join_along_time() -> None:
        joined = next(iter(take()[1].values()))
        _need(
            joined.valid.shape[1] == steps,
            f"{steps} steps became {tuple(joined.valid.shape)}: return the state as it goes in again, and don't write into it",
        )

    def check_sequences_do_not_mix() -> None:
        whole, alone = take()[0][-1], take(rows=slice(0, 1))[0][-1]
        far = max(float((a[:1] - b).abs().max()) for a, b in zip(whole, alone, strict=True))
        _need(
            far <= 1e-9,
            f"alone, the first sequence ends {far:.1e} from where it ends in the batch",
        )

    def check_a_state_that_is_left_out_is_zero() -> None:
        zero = tree_map(torch.zeros_like, state)
        with torch.no_grad():
            try:
                left_out = _tensors(_state_of(exact(x), state))
            except Exception as error:
                raise _Skipped(f"it needs its state: {first_line(error)}") from error
            given = _tensors(_state_of(exact(x, *zero), state))
        far = max(float((a - b).abs().max()) for a, b in zip(left_out, given, strict=True))
        _need(far <= 1e-12, f"without a state it ends {far:.1e} from where zeros end, and zeros are recorded: pass its state")

    def check_gradients_of_the_equations_are_its_own() -> None:
        if not any(parameter.requires_grad for parameter in exact.parameters()):
            raise _Skipped("no parameter requires a gradient")
        found = []
        for graph in (False, True):
            exact.zero_grad()
            with record(exact, grad=True) if graph else nullcontext(), torch.enable_grad():
                now = tree_map(torch.clone, state)
                for _ in range(2):
                    try:
                        now = _state_of(exact(x, *now), now)
                    except CertificateError:
                        raise
                    except RecordingError as error:
                        raise _Skipped(first_line(error)) from error
                torch.stack([tensor.square().sum() for tensor in _tensors(now)]).sum().backward()
            found.append([torch.zeros(()).double() if p.grad is None else p.grad.clone() for p in exact.parameters()])
        far = max((float((a - b).abs().max()) for a, b in zip(*found, strict=True)), default=0.0)
        _need(far <= 1e-9, f"gradients of the parameters differ by {far:.1e}: do the equations detach, or read other weights?")

    return _run(type(cell).__name__, _named(locals()), on_fail)


def _drawn(cell: Any) -> tuple[Any, ...]:
    sizes: list[Any] = [getattr(cell, name, None) for name in ("input_size", "hidden_size")]
    if not all(isinstance(size, int) for size in sizes):
        raise InputError(f"needed a call of {type(cell).__name__}, (x, h) or (x, (h, c)), as it doesn't say its sizes, got none")
    device = next((parameter.device for parameter in cell.parameters()), None)
    x, h = (torch.zeros(3, size, device=device) for size in sizes)
    return (x, (h, h)) if isinstance(cell, (nn.LSTMCell, PeepholeLSTMCell)) else (x, h)


def _like(value: Any, generator: torch.Generator, size: float = 1.0) -> Any:
    """The same nested tuples with normal numbers of that size in float64 for tensors of floating point."""

    def draw(tensor: Any) -> Any:
        if not (isinstance(tensor, Tensor) and tensor.is_floating_point()):
            return tensor
        return size * torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)

    return tree_map(draw, value)


def _state_of(returned: Any, before: Any) -> list[Any]:
    """What a cell returned as the arguments after ``x`` of its next call."""
    if isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], (tuple, list)):
        returned = returned[1]
    # Called as cell(x, h, c) it takes its states apart, as cell(x, (h, c)) together.
    return list(returned) if len(before) > 1 and isinstance(returned, (tuple, list)) else [returned]
