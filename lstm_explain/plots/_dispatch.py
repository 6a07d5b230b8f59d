"""One verb for every result: `plot`."""

from functools import singledispatch
from importlib.resources import files
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lstm_explain.errors import InputError
from lstm_explain.plots._drawable import make_drawable

STYLE = str(files("lstm_explain.plots") / "lstm_explain.mplstyle")
"""All colours and sizes."""


def panels(width: float, height: float, count: int = 1, columns: int | None = None) -> tuple[Figure, list[Axes]]:
    """A figure in our style, with axes side by side in rows of `height` inches; no window and no pyplot knows of it."""
    across = count if columns is None else min(count, columns)
    down = -(-count // across)
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(width, height * down), layout="constrained")
        return figure, [figure.add_subplot(down, across, at + 1) for at in range(count)]


@singledispatch
def draw(result: Any, ax: Axes, **options: Any) -> None:
    """Draw a result on axes; each kind of result registers its own."""
    raise InputError(f"needed a result of one of lstm_explain's analyses, got {type(result).__name__}")


def plot(result: Any, ax: Axes | None = None, *, title: str | None = None, **options: Any) -> Axes:
    """Draw any result.

    Parameters
    ----------
    result
        What an analysis returned: `lx.saturation`, `lx.timescale`, `lx.unit_text`, `lx.attribute`, `lx.gate_attribution`,
        `lx.attribution_matrix`, `lx.contextual_decomposition`, `lx.faithfulness`, `lx.compare_attributions`, `lx.probe`, `lx.unit_scores`,
        `lx.sparse_probe`, `lx.description_length`, `lx.erase`, `lx.compare_runs`, `lx.ablation`, `lx.verify`, `lx.contexts`,
        `lx.correlations`, `lx.components`, `lx.select`, `lx.match`.
    ax : matplotlib Axes, optional
        Where to draw; new ones from pyplot if left out, so that a notebook shows them.
    title : str, optional
        In place of the picture's own.
    **options
        ``kind=`` picks the picture, ``gate=``, ``layer=`` and ``unit=`` what is in it, where the result has them:

        ============ ========================================== ================================================
        result       kinds (the first is the default)           options
        ============ ========================================== ================================================
        saturation   ``scatter``, ``histogram``                 gate, layer
        timescale    ``survival``, ``half_life``, ``retention`` layer, unit
        unit_text    (one)                                      columns
        attribution  ``steps``, ``text``, ``map``, ``groups``,  example, tokens, feature_names, start, columns,
                     ``series``                                 inputs, features
        gates        ``steps``, ``units``, ``map``              example, tokens
        matrix       (one)                                      example, tokens
        contextual   ``shares``, ``text``                       example, tokens, columns
        probing      ``scores``, ``selectivity``, ``matrix``    label, units
        unit_scores  (one)
        sparse_probe (one)
        lengths      (one)
        erasure      (one)
        compare_runs (one)
        ablation     ``effects``, ``removal``                   label, units, notes
        faithfulness ``deletion``, ``insertion``,
                     ``comprehensiveness``, ``randomisation``
        comparison   ``rows``, ``matrix``                       example, tokens, start, agreement
        verification ``legs``, ``used``, ``suffices``           claim, effect
        contexts     ``top``, ``bottom``, ``average``           layer, unit, columns, feature
        correlations (one)
        components   ``variance``, ``paths``                    layer, paths, sequences, most
        selection    (one)                                      tokens
        matches      (one)                                      tokens, count, columns
        ============ ========================================== ================================================

        With ``tokens=`` the default for an attribution and a contextual decomposition is ``text``, and ``groups`` where an attribution has
        groups. With ``inputs=``, what was attributed, ``(batch, time[, feature])``, that of an attribution is ``series``: each feature's
        own line, on the colours of its attributions, of `features`, places or names, or of the 12 with the largest ones.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    InputError
        If the result, its kind or an option isn't known.
    """
    if ax is None:
        from matplotlib import pyplot

        with matplotlib.style.context(STYLE):
            _, ax = pyplot.subplots()
            interactive = matplotlib.is_interactive()
        # A notebook's first figure makes pyplot show figures from then on, which leaving the style undoes.
        matplotlib.interactive(interactive)
    with matplotlib.style.context(STYLE):
        draw(result, ax, **options)
        if title is not None:
            ax.set_title(title)
        make_drawable(ax)
    return ax


def chosen(what: str, value: str | None, known: tuple[str, ...]) -> str:
    """An option's value, the first known one if left out.

    Raises
    ------
    InputError
        If it isn't known.
    """
    if value is None:
        return known[0]
    if value not in known:
        raise InputError(f"needed {what} as one of {', '.join(known)}, got {value!r}")
    return value


def layers_of(layers: Any, layer: str | None, what: str = "layer") -> dict[str, Any]:
    """All layers (or labels) of a result, or the one asked for.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    return dict(layers) if layer is None else {chosen(what, layer, tuple(layers)): layers[layer]}
