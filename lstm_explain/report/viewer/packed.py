"""From a `View` to what stands in the page: bytes for values, one JSON for the rest; cut to the size that there is for it."""

import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from lstm_explain.analyses.contexts.result import Context, Kind
from lstm_explain.display import jsonable
from lstm_explain.report.viewer.painted import BLOCK, Painted
from lstm_explain.report.viewer.view import View
from lstm_explain.trajectory import is_gate

LEVELS = 254
"""Values are whole numbers from 0 to this, evenly spaced from a unit's lowest to its highest possible one; 255 isn't finite."""
NOT_FINITE = 255
FEW = 24
"""Units from whose size that of more is estimated."""
BEYOND = 0.99
"""Of a state without bounds, this share of all values is within the scale of colours; what lies beyond has the last colour."""
COLOURS = {
    kind: [to_hex(colormaps[name](share)) for share in np.linspace(0, 1, 33)] for kind, name in (("gate", "viridis"), ("signed", "RdBu_r"))
}
"""As in the figures; what lies between is interpolated."""


class Packed(NamedTuple):
    """What a page holds of a view."""

    island: str
    """The JSON, without any character that could end its element."""
    blocks: Mapping[str, str]
    """Values of each layer and signal, ``"0 cell_state"``: bytes ``(unit, step)``, compressed, in base64."""
    values: Mapping[str, NDArray[np.float32]]
    """The same values, exact, by ``"l0.cell_state"``; and of each piece what its outputs hang on, as ``"piece_0.contributions"``."""
    facts: dict[str, Any]
    """What is shown and what was cut, for `report.json`."""
    view: View
    """What it holds, which may be less than there was to show."""

    @property
    def size(self) -> int:
        """In bytes of the page."""
        return len(self.island) + sum(map(len, self.blocks.values()))


def packed(view: View, budget: int) -> Packed:
    """As many units as fit into so many bytes, the most interesting first; if not even one does, its contexts and later steps are cut."""
    one, made = _pack(view, view.units[:1]), _pack(view, view.units[:FEW])
    count = min(FEW, len(view.units))
    # Sizes go nearly with the number of units, those of many more nearly than those of few.
    for _ in range(2):
        each = max(1.0, (made.size - one.size) / max(1, count - 1))
        if (wanted := max(1, min(len(view.units), 1 + int((budget - one.size) / each)))) == count:
            break
        count, made = wanted, _pack(view, view.units[:wanted])
    while made.size > budget and count > 1:
        count = max(1, min(count - 1, int(count * budget / made.size)))
        made = _pack(view, view.units[:count])
    if made.size > budget and view.contexts is not None:
        return packed(replace(view, contexts=None), budget)
    return packed(view.shortened(view.steps // 2), budget) if made.size > budget and view.steps > 1 else made


def _pack(view: View, chosen: tuple[tuple[str, int], ...]) -> Packed:
    layers: list[dict[str, Any]] = []
    blocks, exact = {}, {}
    for name, seen in view.layers.items():
        units = sorted(unit for layer, unit in chosen if layer == name)
        if not units:
            continue
        signals = []
        for signal, values in seen.signals.items():
            own = values[units]
            low, high = _ends(signal, own)
            blocks[f"{len(layers)} {signal}"] = _squeezed(_bytes(own, low, high))
            exact[f"{name}.{signal}"] = own
            signals.append({"name": signal, "low": low, "high": high, "scale": _scale(signal, values)})
        layers.append(
            {
                "name": name,
                "kind": seen.kind,
                "memory": seen.memory,
                "units": units,
                "of": len(seen.signals[seen.memory]),
                "signals": signals,
                "orders": [{"what": order.what, "values": order.values[name][units]} for order in view.orders if name in order.values],
                "contexts": _contexts(view, name, units),
            }
        )
    for at, part in enumerate(() if isinstance(view.why, str) else view.why.parts):
        exact |= {f"piece_{at}.{name}": values.astype(np.float32) for name, values in part._asdict().items()}
    rank = {one: at for at, one in enumerate(chosen)}
    meta = {
        "pieces": [piece._asdict() for piece in view.pieces],
        "tokens": view.tokens,
        "series": None if view.series is None else view.series.T,
        "feature_names": view.feature_names,
        "steps": view.steps,
        "layers": layers,
        "interest": [[rank[(layer["name"], unit)] for unit in layer["units"]] for layer in layers],
        "first": _first(layers, chosen[0]),
        "levels": LEVELS,
        "not_finite": NOT_FINITE,
        "colours": COLOURS,
        "why": _why(view.why),
    }
    facts = {
        "pieces": [piece._asdict() for piece in view.pieces],
        "steps": view.steps,
        "steps_in_all": view.all_steps,
        "units": {layer["name"]: layer["units"] for layer in layers},
        "units_shown": len(chosen),
        "units_in_all": len(view.units),
        "levels": LEVELS,
        "outputs_explained": 0 if isinstance(view.why, str) else sum(len(part.output) for part in view.why.parts),
        "explained_by": [BLOCK, 2 * BLOCK],
        "holds_inputs": view.inputs,
        "values": "viewer.safetensors",
    }
    return Packed(_island(meta), blocks, exact, facts, view)


def _first(layers: list[dict[str, Any]], one: tuple[str, int]) -> tuple[int, int]:
    """The places of the layer and the unit that are shown first."""
    at = [layer["name"] for layer in layers].index(one[0])
    return at, layers[at]["units"].index(one[1])


def _ends(signal: str, values: NDArray[np.float32]) -> tuple[list[float], list[float]]:
    """The lowest and highest value that each unit's bytes stand for: of a gate 0 and 1, else as far up as down, so that 0 is exact."""
    if is_gate(signal):
        return [0.0] * len(values), [1.0] * len(values)
    finite = np.where(np.isfinite(values), np.abs(values), 0.0).max(1) if values.shape[1] else np.ones(len(values))
    if signal != "cell_state" and (finite <= 1).all():
        finite = np.ones(len(values))
    high = [float(one) if one > 0 else 1.0 for one in finite.astype(np.float64)]
    return [-one for one in high], high


def _bytes(values: NDArray[np.float32], low: list[float], high: list[float]) -> NDArray[np.uint8]:
    below, above = np.array(low)[:, None], np.array(high)[:, None]
    finite = np.isfinite(values)
    level = np.round((np.where(finite, values, 0.0) - below) / (above - below) * LEVELS)
    return np.where(finite, np.clip(level, 0, LEVELS), NOT_FINITE).astype(np.uint8)


def _scale(signal: str, values: NDArray[np.float32]) -> list[float]:
    """From where to where the colours go, the same for all units of the layer."""
    if is_gate(signal):
        return [0.0, 1.0]
    sizes = np.abs(values[np.isfinite(values)])
    if not len(sizes) or (signal != "cell_state" and sizes.max() <= 1):
        return [-1.0, 1.0]
    end = float(f"{max(float(np.quantile(sizes, BEYOND)), 1e-6):.2g}")
    return [-end, end]


def _squeezed(values: NDArray[np.uint8]) -> str:
    return base64.b64encode(gzip.compress(values.tobytes(), 6, mtime=0)).decode()


def _contexts(view: View, name: str, units: list[int]) -> dict[str, list[list[dict[str, Any]]]] | None:
    """Each unit's highest and lowest contexts; numbers that were read are left to the series above."""
    if view.contexts is None or name not in view.contexts.layers:
        return None
    found = view.contexts.layers[name]
    kinds: tuple[Kind, ...] = ("top", "bottom")
    return {kind: [[_context(one) for one in found.of(unit, kind)] for unit in units] for kind in kinds}


def _context(one: Context) -> dict[str, Any]:
    return {
        "value": round(one.value, 4),
        "sequence": one.sequence,
        "step": one.step,
        "at": one.at,
        "read": one.read if isinstance(one.read, tuple) else None,
        "values": [float(f"{value:.3g}") for value in one.values.tolist()] if isinstance(one.read, tuple) else None,
    }


def _why(why: Painted | str) -> dict[str, Any] | None:
    """Contributions of each output as bytes from 1 to 255, 128 none, of its own largest, from the first step that was asked on; 0: not."""
    if isinstance(why, str):
        return None
    parts = []
    for part in why.parts:
        asked = ~np.isnan(part.contributions)
        first, width = asked.argmax(1), int((asked.shape[1] - asked[:, ::-1].argmax(1) - asked.argmax(1)).max())
        steps = first[:, None] + np.arange(width)
        inside = steps < asked.shape[1]
        near = np.where(inside, np.take_along_axis(part.contributions, np.where(inside, steps, 0), 1), np.nan)
        largest = np.nanmax(np.abs(near), axis=1)
        share = near / np.where(largest > 0, largest, 1.0)[:, None]
        parts.append(
            {
                "first": first,
                "width": width,
                "largest": [float(f"{one:.3g}") for one in largest.tolist()],
                "output": [float(f"{one:.4g}") for one in part.output.tolist()],
                "residual": [float(f"{one:.2g}") for one in part.residual.tolist()],
                "contributions": _squeezed(np.where(np.isnan(share), 0, np.round(np.nan_to_num(share) * 127 + 128)).astype(np.uint8)),
            }
        )
    return {"what": why.what, "whole": why.whole, "parts": parts}


def _island(meta: Mapping[str, Any]) -> str:
    """ASCII throughout, lone surrogates too, and no "<" that could end the element or open another."""
    return json.dumps(jsonable(meta), ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
