"""`verify`: from "this unit knows" to "the network uses it"."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from lstm_explain.analyses.ablation.held import Loss, evaluated
from lstm_explain.analyses.ablation.intervals import draws
from lstm_explain.analyses.probing.fits import folds_of
from lstm_explain.analyses.probing.scores import METRICS
from lstm_explain.analyses.probing.threads import one_thread
from lstm_explain.errors import InputError
from lstm_explain.recording.runner import layers_in, unwrapped
from lstm_explain.trajectory import checked_lengths, together
from lstm_explain.verdicts.faithfulness.claims import numbered
from lstm_explain.verdicts.verification.asked import Label, claims_of, donors_of, labels_of
from lstm_explain.verdicts.verification.bounds import of_slopes
from lstm_explain.verdicts.verification.claim import Claim
from lstm_explain.verdicts.verification.knows import Known, Steps, above, known
from lstm_explain.verdicts.verification.patching import Patching
from lstm_explain.verdicts.verification.result import Knows, Suffices, Used, VerificationResult, Verified
from lstm_explain.verdicts.verification.states import kept, numbers, states_of, twins_of, windowed


def verify(
    claims: Claim | Sequence[Claim],
    model: nn.Module,
    inputs: Tensor,
    labels: Mapping[str, Any] | Any,
    *,
    loss: Loss,
    output: Callable[[Any], Tensor] | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    groups: Sequence[Any] | None = None,
    where: Mapping[str, Any] | None = None,
    twins: int | Sequence[nn.Module] = 5,
    window: int = 8,
    folds: int = 5,
    donors: int = 2,
    matched: int = 99,
    at_most: int = 20_000,
    additional_forward_args: Any = None,
    resamples: int = 1000,
    permutations: int = 999,
    seed: int = 0,
    progress: bool | None = None,
) -> VerificationResult:
    """Whether units that tell a label are what the network tells it by: a verdict that stands on three legs.

    *Knows*: the units tell the label on groups that weren't looked at, better than a constant, than the window of the last inputs and than
    the best units of untrained twins, and better than with the label moved in time. *Is used*: when they hold, at every step, what they
    held in another sequence, the loss rises where that sequence's label differs, more than where it doesn't, and more than when other
    units of the layer, which vary as much and are read as strongly, are held so. *Suffices*: held so, they move the output to where it is
    with the other sequence's label. Ablating is held against ablating and moving against moving, so a unit that is important for another
    reason, or follows the label without being read, doesn't pass.

    A leg that falls is *not shown*, which isn't "not so": where several units carry the same, each alone may do nothing, and ``units=`` of
    a `Claim` tests them together. And what stands for the label may be something that goes with it: a label is as good as the person who
    made it. Claims should come from elsewhere than the sequences they are tested on. Of many claims each leg is corrected for their
    number: over draws of groups, the chance that it stands for any claim of which it is false is at most 5 %. "More than other units" is
    false of a unit whose effect isn't among the largest 5 % of these, itself counted, and held so only as far as simulation goes
    (`Used`); which units there are isn't taken as drawn.

    Parameters
    ----------
    claims : Claim or sequence of Claim
    model : torch.nn.Module
        Called as ``model(inputs, *additional_forward_args)``, batch first, each sequence by itself. It runs in evaluation mode and is as
        it was when this returns.
    inputs : Tensor ``(batch, time, ...)``
    labels : mapping of str to array ``(batch, time)``, or one such array
        What is true after each step: two classes (booleans; whole numbers, -1 where undefined; text, "" where undefined), of which the
        second in order is yes, or numbers (NaN where undefined).
    loss : callable
        As for `ablation`: ``loss(what the model returned, rows)`` gives ``(row, time)``, or ``(row,)``: then what is compared is the label
        at each sequence's last step.
    output : callable, optional
        What the model returned -> the tensor that the units are to move, ``(row, time[, class])``, or ``(row[, class])`` beside a loss of
        that kind; if left out, what it returned, or the first part of that.
    lengths : Tensor of int or sequence of int ``(batch,)``, optional
        How many steps of each sequence are real.
    groups : sequence ``(batch,)``, optional
        Which sequences belong together (files, patients); each by itself if left out. The unit of folds, donors and intervals.
    where : mapping of str to array of bool ``(batch, time)``, optional
        The steps at which the behaviour hangs on a label, such as those where an answer is asked for; all if left out.
    twins : int or sequence of torch.nn.Module
        How many untrained twins `lx.untrained` makes; or twins that you made.
    window : int
        Steps of input that the window control sees.
    folds : int
    donors : int
        How many other sequences each one is patched from, in turn.
    matched : int
        At most so many sets of other units are patched for each claim: the nearest half of the layer's, or 39 where that is fewer.
    at_most : int
        Steps that *knows* is scored on: of more, every so many of each sequence.
    additional_forward_args : optional
        What else the model is called with; tensors as long as the batch go along with their sequence.
    resamples, permutations : int
        Bootstrap draws of groups; moves of the label.
    seed : int
    progress : bool, optional
        Whether a bar says how many forward passes there are; on a terminal, if left out.

    Returns
    -------
    VerificationResult

    Raises
    ------
    InputError
        If a claim is about a layer, a unit or a label that isn't there; if a label has more than two classes, or never varies within a
        group; if there are fewer groups than folds; if the model has no untrained twin; or an argument doesn't fit.
    RecordingError, CertificateError
        If a layer can't be run by its equations, or isn't what they say.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> _ = torch.manual_seed(1)
    >>> model, x = torch.nn.GRU(3, 8, batch_first=True), torch.randn(10, 30, 3)
    >>> rising = x[:, :, 0].cumsum(1).numpy() > 0
    >>> result = lx.verify(lx.Claim("l0", 2, "rising"), model, x, {"rising": rising}, loss=lambda returned, rows: returned[0].sum(-1))
    >>> result.verified  # an untrained network
    ()
    """
    model = unwrapped(model)
    layers = layers_in(model)
    if not isinstance(inputs, Tensor) or inputs.dim() < 2 or 0 in inputs.shape:
        got = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise InputError(f"needed inputs as a tensor (batch, time, ...), got {got}")
    batch, time = inputs.shape[:2]
    _positive(window=window, donors=donors, matched=matched, at_most=at_most, resamples=resamples, permutations=permutations)
    asked = claims_of(claims, layers)
    group = numbered(groups, batch)
    fold = folds_of(group, folds, seed)
    steps = None if lengths is None else checked_lengths(lengths, batch, time).cpu()
    valid = np.arange(time) < (np.full(batch, time) if steps is None else steps.numpy())[:, None]
    carried = labels_of(labels, (one.label for one in asked), where, valid, group)
    if not callable(loss):
        raise InputError(f"needed loss as a function of the model's output and the sequences' numbers, got {type(loss).__name__}")
    times = draws(int(group.max()) + 1, resamples, seed)
    rounds = [donors_of(group, seed + 1 + number) for number in range(donors)]
    others = twins_of(model, twins, seed)
    by_layer: dict[str, list[Claim]] = {}
    for one in asked:
        by_layer.setdefault(one.layer, []).append(one)
    with evaluated(model), tqdm(unit="pass", disable=None if progress is None else not progress, total=0) as bar:
        found = {
            layer: Patching(
                model,
                inputs.detach(),
                layers[layer],
                layer,
                own,
                carried,
                loss,
                output,
                additional_forward_args,
                steps,
                donors,
                matched,
                seed,
            )
            for layer, own in by_layer.items()
        }
        bar.total = passes = sum(one.passes for one in found.values())
        for layer, patching in found.items():
            bar.set_description(f"patching units of {layer}")
            patching.run(rounds, group, fold, bar)
        keep = kept(valid, at_most, seed)
        memories = {layer: one.held.trajectory.memory for layer, one in found.items()}
        states = {layer: numbers(one.held.trajectory.signal(memories[layer]))[keep] for layer, one in found.items()}
        bar.set_description("recording untrained twins")
        theirs = [states_of(twin, inputs.detach(), memories, additional_forward_args, steps, keep) for twin in others]
    knowing = _known(asked, carried, keep, group, fold, inputs, valid, window, states, theirs, times, permutations, seed)
    return VerificationResult(
        claims=_verified(asked, knowing, carried, found, times),
        matched_by={layer: one.read_by for layer, one in found.items()},
        certificates={layer: (str(one.held.certificate), str(one.certificate)) for layer, one in found.items()},
        groups=times.shape[1],
        folds=folds,
        donors=donors,
        twins=len(others),
        window=window,
        resamples=resamples,
        permutations=permutations,
        seed=seed,
        passes=passes,
        padding=together(one.held.trajectory.padding for one in found.values()),
    )


def _positive(**given: Any) -> None:
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"needed {name} as a positive whole number, got {value!r}")


@one_thread()
def _known(
    claims: Sequence[Claim],
    labels: Mapping[str, Label],
    keep: NDArray[np.bool_],
    group: NDArray[np.int64],
    fold: NDArray[np.int64],
    inputs: Tensor,
    valid: NDArray[np.bool_],
    window: int,
    states: Mapping[str, NDArray[Any]],
    twins: Sequence[Mapping[str, NDArray[Any]]],
    times: NDArray[np.float64],
    permutations: int,
    seed: int,
) -> list[Known]:
    """The first leg of each claim."""
    seen = windowed(inputs, valid, window, keep)
    sequence = np.nonzero(keep)[0]
    found: dict[Claim, Known] = {}
    for name, label in labels.items():
        defined = ~np.isnan(label.values[keep])
        own = [one for one in claims if one.label == name]
        steps = Steps(
            name,
            label.truth(keep & ~np.isnan(label.values)),
            sequence[defined],
            group[sequence][defined],
            fold[sequence][defined],
            seen[defined],
        )
        here = {layer: one[defined] for layer, one in states.items()}
        theirs = [{layer: one[defined] for layer, one in twin.items()} for twin in twins]
        each = known(steps, [(one.layer, tuple(one.units)) for one in own], here, theirs, times, permutations, seed)
        found |= {one: scored._replace(p_value=min(1.0, scored.p_value * len(labels))) for one, scored in zip(own, each, strict=True)}
    return [found[one] for one in claims]


def _verified(
    claims: Sequence[Claim],
    knowing: Sequence[Known],
    labels: Mapping[str, Label],
    found: Mapping[str, Patching],
    times: NDArray[np.float64],
) -> tuple[Verified, ...]:
    """The legs of each claim, each with the intervals of the family."""
    over = above(knowing)
    used, suffices = ([getattr(found[one.layer], leg)(one) for one in claims] for leg in ("used", "suffices"))
    effects, more, shares, further = (
        of_slopes(np.stack(sums), np.stack([one.steps for one in leg]), times)
        for leg in (used, suffices)
        for sums in ([one.sums for one in leg], [one.above for one in leg])
    )
    return tuple(
        Verified(
            one,
            Knows(
                METRICS[labels[one.label].kind],
                knowing[at].own.value,
                {name: control.value for name, control in knowing[at].controls.items()},
                over[at],
                knowing[at].p_value,
            ),
            Used(effects[at], found[one.layer].change(one), used[at].matched, more[at], found[one.layer].noop),
            Suffices(shares[at], suffices[at].matched, further[at]),
        )
        for at, one in enumerate(claims)
    )
