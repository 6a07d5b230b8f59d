"""What probes read: a layer's signal, all of them together, an untrained twin's, or the last few inputs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from lstm_explain.analyses.probing.result import JOINT, UNTRAINED
from lstm_explain.errors import InputError
from lstm_explain.trajectory import Trajectory

STATES = ("cell_state", "hidden_state")


class Source(NamedTuple):
    """One of the things that probes are fitted to; `twin` numbers the untrained networks."""

    control: str = ""
    twin: int = 0
    layer: str = ""
    signal: str = ""

    def key(self, twins: int) -> str:
        """Its name in a result."""
        name = f"{self.layer} {self.signal}".strip()
        if self.control != UNTRAINED:
            return self.control or name
        return f"{UNTRAINED} {name}" if twins == 1 else f"{UNTRAINED} {self.twin} {name}"


def read(
    recordings: Sequence[Mapping[str, Trajectory]], signals: Sequence[str] | None, joint: bool, valid: NDArray[np.bool_]
) -> Iterator[tuple[Source, NDArray[np.float32]]]:
    """The features at the valid steps of the network, which comes first, and of its twins: ``(step, unit)`` for each source.

    Raises
    ------
    InputError
        If a signal isn't there or isn't finite, or a twin has other layers or steps.
    """
    own = recordings[0]
    if signals is not None and (unknown := [one for one in signals if not any(one in layer.signals for layer in own.values())]):
        there = dict.fromkeys(name for layer in own.values() for name in layer.signals)
        raise InputError(f"needed signals of the recorded layers, {', '.join(there)}, got {unknown[0]!r}")
    for at, recording in enumerate(recordings):
        control = Source(UNTRAINED, at - 1) if at else Source()
        if list(recording) != list(own):
            raise InputError(f"needed the untrained recording of the same layers, {', '.join(own)}, got {', '.join(recording) or 'none'}")
        side_by_side = []
        for name, trajectory in recording.items():
            prefix = f"{UNTRAINED} " if at else ""
            if not np.array_equal(trajectory.valid.cpu().numpy(), valid):
                raise InputError(f"needed recordings of the same steps in every layer, got others in {prefix}{name}")
            # A signal that wasn't kept is missed by name; of signals that were asked for, each layer has what is its own.
            chosen = [one for one in STATES if one in trajectory.initial] if signals is None else signals
            for signal in (one for one in chosen if signals is None or one in own[name].signals):
                states: NDArray[np.float32] = trajectory.steps(signal).float().cpu().numpy()
                if not np.isfinite(states).all():
                    bad = int((~np.isfinite(states)).sum())
                    raise InputError(f"needed finite states to probe, got {bad} NaN or infinite values in {prefix}{name} {signal}")
                if joint:
                    side_by_side.append(states)
                yield control._replace(layer=name, signal=signal), states
        if joint:
            yield control._replace(signal=JOINT), np.concatenate(side_by_side, axis=1)


def window(inputs: Tensor, valid: NDArray[np.bool_], steps: int) -> NDArray[Any]:
    """The last inputs at each valid step, the newest first: symbols ``(step, window)``, -1 before the first, or features side by side.

    Raises
    ------
    InputError
        If these aren't inputs of these steps, or not finite.
    """
    given = inputs.detach().cpu().numpy()
    if given.shape[:2] != valid.shape:
        raise InputError(f"needed the window's inputs of shape {valid.shape} + (feature,), got {given.shape}")
    if inputs.is_floating_point() and not np.isfinite(given[valid]).all():
        raise InputError("needed finite inputs for the window control, got NaN or infinite ones")
    if inputs.is_floating_point():
        features, absent = given.reshape(*valid.shape, -1).astype(np.float32), 0.0
    elif given.ndim == 2 and (given[valid] >= 0).all():
        features, absent = given[:, :, None].astype(np.int64), -1
    else:
        raise InputError(
            f"needed the window's inputs as features (batch, time, feature) or symbols (batch, time) from 0, got {given.shape}"
        )
    lags = []
    for lag in range(steps):
        shifted = np.full_like(features, absent)
        if lag < features.shape[1]:
            shifted[:, lag:] = features[:, : features.shape[1] - lag]
        lags.append(shifted[valid])
    return np.concatenate(lags, axis=1)


def one_hot(symbols: NDArray[np.int64], of: int) -> Any:
    """A column for each symbol at each lag; symbols that come later add columns at the end."""
    steps, lags = symbols.shape
    step, lag = np.nonzero(symbols >= 0)
    return csr_array((np.ones(len(step)), (step, symbols[step, lag] * lags + lag)), shape=(steps, of * lags))


def exact(features: NDArray[Any], symbols: int) -> Any:
    """Features in double precision; symbols as columns, sparse."""
    return features.astype(np.float64) if features.dtype.kind == "f" else one_hot(features, symbols)


def twins_of(untrained: Any) -> list[Mapping[str, Trajectory]]:
    """The recordings of untrained networks, of which one may be given by itself.

    Raises
    ------
    InputError
        If there is none among them, or one isn't a recording.
    """
    if untrained is None:
        return []
    twins = [untrained] if isinstance(untrained, Mapping) else list(untrained) if isinstance(untrained, Sequence) else [untrained]
    if not twins:
        raise InputError("needed at least one recording of an untrained network, got none: leave the control out")
    if wrong := [one for one in twins if not isinstance(one, Mapping)]:
        raise InputError(f"needed a recording of each untrained network, got {type(wrong[0]).__name__}")
    return twins
