"""Open the gates of LSTMs: record them, ask them, show them.

::

    x ──> nn ──> recording ──Recording──> analyses ──Result──> plots ──Axes──> report ──> reports/
                                 └ trajectory (the one labelled structure that everybody upstairs speaks)

Names load when they are first used, so that ``import lstm_explain`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lstm_explain.analyses.ablation.ablation import ablation as ablation
    from lstm_explain.analyses.attribution.attribute import attribute as attribute
    from lstm_explain.analyses.attribution.decomposition.contextual import contextual_decomposition as contextual_decomposition
    from lstm_explain.analyses.attribution.gates import gate_attribution as gate_attribution
    from lstm_explain.analyses.attribution.matrix import attribution_matrix as attribution_matrix
    from lstm_explain.analyses.compare_runs import compare_runs as compare_runs
    from lstm_explain.analyses.components import Components as Components
    from lstm_explain.analyses.components import components as components
    from lstm_explain.analyses.contexts.contexts import Contexts as Contexts
    from lstm_explain.analyses.contexts.contexts import contexts as contexts
    from lstm_explain.analyses.correlations import Correlations as Correlations
    from lstm_explain.analyses.correlations import correlations as correlations
    from lstm_explain.analyses.probing.description_length import description_length as description_length
    from lstm_explain.analyses.probing.erasure import erase as erase
    from lstm_explain.analyses.probing.probe import probe as probe
    from lstm_explain.analyses.probing.sparse_probe import sparse_probe as sparse_probe
    from lstm_explain.analyses.probing.stream import Probing as Probing
    from lstm_explain.analyses.probing.unit_scores import unit_scores as unit_scores
    from lstm_explain.analyses.probing.untrained import untrained as untrained
    from lstm_explain.analyses.saturation import Saturation as Saturation
    from lstm_explain.analyses.saturation import saturation as saturation
    from lstm_explain.analyses.selection.match import match as match
    from lstm_explain.analyses.selection.select import select as select
    from lstm_explain.analyses.timescale import Timescale as Timescale
    from lstm_explain.analyses.timescale import timescale as timescale
    from lstm_explain.analyses.unit_text import unit_text as unit_text
    from lstm_explain.errors import CertificateError as CertificateError
    from lstm_explain.errors import InputError as InputError
    from lstm_explain.errors import LstmExplainError as LstmExplainError
    from lstm_explain.errors import OutputError as OutputError
    from lstm_explain.errors import RecordingError as RecordingError
    from lstm_explain.errors import WeightsError as WeightsError
    from lstm_explain.intervention.intervene import intervene as intervene
    from lstm_explain.intervention.values import add as add
    from lstm_explain.intervention.values import clamp as clamp
    from lstm_explain.intervention.values import mean as mean
    from lstm_explain.intervention.values import patch as patch
    from lstm_explain.intervention.values import resample as resample
    from lstm_explain.nn.kernels.native import backend as backend
    from lstm_explain.nn.lstm import PeepholeLSTM as PeepholeLSTM
    from lstm_explain.nn.lstm import PeepholeLSTMCell as PeepholeLSTMCell
    from lstm_explain.plots import plot as plot
    from lstm_explain.pruned import prune as prune
    from lstm_explain.recording.cells import register as register
    from lstm_explain.recording.certificate import Certificate as Certificate
    from lstm_explain.recording.files import load as load
    from lstm_explain.recording.recording import Recording as Recording
    from lstm_explain.recording.runner import record as record
    from lstm_explain.report.explain import explain as explain
    from lstm_explain.study import Place as Place
    from lstm_explain.study import Study as Study
    from lstm_explain.trajectory import Trajectory as Trajectory
    from lstm_explain.unfused import unfuse as unfuse
    from lstm_explain.verdicts.comparison import compare_attributions as compare_attributions
    from lstm_explain.verdicts.faithfulness.faithfulness import faithfulness as faithfulness
    from lstm_explain.verdicts.verification.claim import Claim as Claim
    from lstm_explain.verdicts.verification.verify import verify as verify

_HOMES = {
    "analyses.ablation.ablation": ("ablation",),
    "analyses.attribution.attribute": ("attribute",),
    "analyses.attribution.decomposition.contextual": ("contextual_decomposition",),
    "analyses.attribution.gates": ("gate_attribution",),
    "analyses.attribution.matrix": ("attribution_matrix",),
    "analyses.compare_runs": ("compare_runs",),
    "analyses.components": ("Components", "components"),
    "analyses.contexts.contexts": ("Contexts", "contexts"),
    "analyses.correlations": ("Correlations", "correlations"),
    "analyses.probing.description_length": ("description_length",),
    "analyses.probing.erasure": ("erase",),
    "analyses.probing.probe": ("probe",),
    "analyses.probing.sparse_probe": ("sparse_probe",),
    "analyses.probing.stream": ("Probing",),
    "analyses.probing.unit_scores": ("unit_scores",),
    "analyses.probing.untrained": ("untrained",),
    "analyses.saturation": ("Saturation", "saturation"),
    "analyses.selection.match": ("match",),
    "analyses.selection.select": ("select",),
    "analyses.timescale": ("Timescale", "timescale"),
    "analyses.unit_text": ("unit_text",),
    "errors": ("CertificateError", "InputError", "LstmExplainError", "OutputError", "RecordingError", "WeightsError"),
    "intervention.intervene": ("intervene",),
    "intervention.values": ("add", "clamp", "mean", "patch", "resample"),
    "nn.kernels.native": ("backend",),
    "nn.lstm": ("PeepholeLSTM", "PeepholeLSTMCell"),
    "plots": ("plot",),
    "pruned": ("prune",),
    "recording.cells": ("register",),
    "recording.certificate": ("Certificate",),
    "recording.files": ("load",),
    "recording.recording": ("Recording",),
    "recording.runner": ("record",),
    "report.explain": ("explain",),
    "study": ("Place", "Study"),
    "trajectory": ("Trajectory",),
    "unfused": ("unfuse",),
    "verdicts.comparison": ("compare_attributions",),
    "verdicts.faithfulness.faithfulness": ("faithfulness",),
    "verdicts.verification.claim": ("Claim",),
    "verdicts.verification.verify": ("verify",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'lstm_explain' has no attribute {name!r}")
    value = getattr(import_module(f"lstm_explain.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
