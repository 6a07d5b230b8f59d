"""`Trajectory` and `Recording` by themselves: shapes, the state before each step, the residual, joining, and what they say."""

import dataclasses
import itertools
import pickle

import pytest
import torch
from cases import Case, call_of, close, peephole_lstm, torch_lstm

from lstm_explain.errors import InputError
from lstm_explain.nn.equations import Form
from lstm_explain.recording.certificate import CallCheck, Certificate
from lstm_explain.recording.recording import Call, Coverage, Recording
from lstm_explain.recording.runner import record
from lstm_explain.trajectory import KINDS, Trajectory

SIGNALS = KINDS["lstm"].signals


def trajectory(valid=((True, True, True), (True, True, False)), reverse=False, first_step=None, **changes):
    """Two units; every signal counts its own values, so that each is told from each."""
    valid = torch.tensor(valid)
    batch, time = valid.shape
    count = torch.arange(batch * time * 2.0).view(batch, time, 2) + 1
    fields = {
        "name": "l0",
        "kind": "lstm",
        "signals": {name: count + 100 * at for at, name in enumerate(SIGNALS)},
        "valid": valid,
        "padding": "known",
        "initial": {"hidden_state": torch.full((batch, 2), -1.0), "cell_state": torch.full((batch, 2), -2.0)},
        "first_step": torch.tensor(first_step or [0] * batch),
        "reverse": reverse,
        "form": Form(None),
    }
    return Trajectory(**(fields | changes))


def last_of(one):
    return {"hidden_state": one.hidden_state[:, -1], "cell_state": one.cell_state[:, -1]}


def recorded(case=None, form=None):
    case = case or Case("packed_unsorted", (2, 4, 1), bidirectional=True, initial_state=True)
    layer = torch_lstm(case) if form is None else peephole_lstm(case, *form)
    with record(layer) as recording:
        layer(*call_of(case))
    return recording


def test_signals_are_attributes_by_name():
    one = trajectory()
    for name in SIGNALS:
        assert getattr(one, name) is one.signals[name] and name in dir(one)
    assert one.gates == ("input_gate", "forget_gate", "output_gate")
    with pytest.raises(AttributeError, match="no 'reset_gate'; its signals are input_gate, "):
        _ = one.reset_gate


def test_a_trajectory_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        trajectory().valid = None


def test_a_trajectory_survives_pickling():
    one = recorded()["l0"]
    twin = pickle.loads(pickle.dumps(one))
    assert torch.equal(twin.cell_state, one.cell_state) and twin.residual() == one.residual()


SIGNAL = torch.zeros(2, 3, 2)


@pytest.mark.parametrize(
    "signals",
    [
        dict.fromkeys([*SIGNALS, "reset_gate"], SIGNAL),
        dict.fromkeys(SIGNALS, SIGNAL) | {"cell_state": SIGNAL[0]},
        dict.fromkeys(SIGNALS, SIGNAL) | {"cell_state": SIGNAL[:, :2]},
        dict.fromkeys(SIGNALS, SIGNAL) | {"cell_state": SIGNAL[..., :1]},
        dict.fromkeys(SIGNALS, SIGNAL.transpose(0, 1)),
        {},
    ],
    ids=["too_many", "rank", "time", "units", "time_first", "none"],
)
def test_signals_that_do_not_fit_are_refused(signals):
    with pytest.raises(InputError, match="^needed signals of input_gate, .* got ") as caught:
        trajectory(signals=signals)
    assert "\n" not in str(caught.value)


def test_the_hidden_state_may_have_its_own_width():
    assert trajectory(signals=dict.fromkeys(SIGNALS, SIGNAL) | {"hidden_state": SIGNAL[..., :1]}).hidden_state.shape == (2, 3, 1)


def test_steps_are_the_valid_ones_sequence_after_sequence():
    assert trajectory().steps("input_gate")[:, 0].tolist() == [1, 3, 5, 7, 9]
    assert trajectory().steps("forget_gate")[:, 0].tolist() == [101, 103, 105, 107, 109]


def test_before_is_the_step_before_and_the_initial_state_first():
    one = trajectory()
    assert one.before("cell_state")[..., 0].tolist() == [[-2, 401, 403], [-2, 407, 409]]
    assert one.before("hidden_state")[..., 0].tolist() == [[-1, 501, 503], [-1, 507, 509]]


def test_before_in_reverse_is_the_step_after_and_the_initial_state_last():
    one = trajectory(reverse=True, first_step=[2, 1])
    before = one.before("cell_state")[..., 0]
    assert before[one.valid].tolist() == [403, 405, -2, 409, -2]


@pytest.mark.parametrize("form", [None, ("full", "previous"), ("diagonal", "graves")])
@pytest.mark.parametrize("suffix", ["l0", "l0_reverse"])
def test_before_leaves_the_signals_as_they_are(suffix, form):
    one = recorded(form=form)[suffix]
    kept = one.cell_state.clone()
    one.before("cell_state")
    one.residual()
    assert torch.equal(one.cell_state, kept)


PAIRS = list(itertools.combinations(SIGNALS, 2))


@pytest.mark.parametrize("suffix", ["l0", "l0_reverse"])
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_swapping_two_signals_makes_the_residual_large(one, other, suffix):
    true = recorded()[suffix]
    signals = dict(true.signals)
    signals[one], signals[other] = signals[other], signals[one]
    assert true.residual() <= 1e-12
    assert dataclasses.replace(true, signals=signals).residual() > 1e-2


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: {"reverse": not t.reverse}, id="direction"),
        pytest.param(lambda t: {"first_step": t.first_step + 1 - 2 * t.reverse}, id="first_step"),
        pytest.param(lambda t: {"initial": {**t.initial, "cell_state": t.initial_cell_state + 1}}, id="initial_cell_state"),
        pytest.param(lambda t: {"initial": {**t.initial, "cell_state": t.initial_cell_state.flip(0)}}, id="order_of_the_batch"),
        pytest.param(lambda t: {"signals": {name: signal.roll(1, 1) for name, signal in t.signals.items()}}, id="time"),
    ],
)
@pytest.mark.parametrize("suffix", ["l0", "l0_reverse"])
def test_wrong_bookkeeping_makes_the_residual_large(suffix, change):
    true = recorded(Case("packed", (4, 3, 3), bidirectional=True, initial_state=True))[suffix]
    changes = change(true)
    if "first_step" in changes:
        changes["first_step"] = changes["first_step"].clamp(0, 3)
    assert dataclasses.replace(true, **changes).residual() > 1e-2


def test_the_residual_needs_the_projection():
    true = recorded(Case(proj_size=2))["l0"]
    assert true.residual() <= 1e-12
    assert dataclasses.replace(true, weights={"weight_hr": true.weights["weight_hr"] * 2}).residual() > 1e-2


def test_padding_does_not_enter_the_residual():
    true = recorded()["l0"]
    noisy = {name: torch.where(true.valid.unsqueeze(-1), signal, torch.full_like(signal, 9.0)) for name, signal in true.signals.items()}
    assert dataclasses.replace(true, signals=noisy).residual() <= 1e-12
    assert dataclasses.replace(true, valid=torch.zeros_like(true.valid)).residual() == 0.0


@pytest.mark.parametrize("name", SIGNALS)
def test_a_nan_in_one_signal_alone_is_no_small_residual(name):
    true = recorded()["l0"]
    signal = true.signals[name].clone()
    signal[0, 0, 0] = torch.nan
    residual = dataclasses.replace(true, signals=true.signals | {name: signal}).residual()
    assert not residual <= 1e-12


def test_repr_is_one_line():
    assert repr(trajectory()) == "<Trajectory 'l0': lstm, batch 2, time 3, 2 units, padding known>"


def check(worst=0.0, module="lstm", **changes):
    zero = dict.fromkeys(("output", "h_n", "c_n", "equations"), 0.0)
    return CallCheck(
        **(
            {"module": module, "call": 0, **zero, "scale": 1.0, "tolerance": 2e-12, "nonfinite": 0, "dtype": "float64"}
            | {"output": worst}
            | changes
        )
    )


def test_the_worst_of_a_check_is_its_largest_difference():
    for name in ("output", "h_n", "c_n", "equations"):
        assert check(**{name: 0.5}).worst == 0.5


@pytest.mark.parametrize(
    ("checks", "state"),
    [((), "uncertified"), ((check(),), "certified"), ((check(1e-12), check(2e-12)), "certified"), ((check(), check(3e-12)), "uncertified")],
)
def test_a_certificate_holds_when_every_call_was_checked_and_held(checks, state):
    certificate = Certificate(checks)
    assert certificate.state == state and str(certificate).startswith(f"{state}: ") and "\n" not in str(certificate)


def test_a_certificate_shows_its_worst_call_relative_to_what_is_allowed():
    certificate = Certificate((check(1e-12), check(1e-7, tolerance=1e-5, dtype="float32")))
    assert str(certificate) == "certified: 2 calls recomputed, largest difference 1.0e-12 (allowed 2.0e-12, float64)"


def test_html_is_static_and_escaped():
    name = "<script>alert(1)</script>"
    recording = Recording([name], {})
    one = dataclasses.replace(trajectory(), name=name)
    recording.add(check(module=name), {name: Call(one, last_of(one), False)})
    for html in (recording._repr_html_(), recording.certificate._repr_html_()):
        assert "<script" not in html and "&lt;script&gt;" in html and html.startswith("<table")


def test_coverage_says_it_in_words():
    assert str(Coverage({}, (), {}, "none")) == "recorded nothing; padding: none"
    coverage = Coverage({"": 2}, ("a", "b"), {"c": "GRU"}, "known")
    assert str(coverage) == "recorded (root) x2; never called: a, b; not opened: c (GRU); padding: known"


def filled(*calls):
    """A recording of one layer with these calls, each a trajectory and whether it continues."""
    recording = Recording(["lstm"], {})
    for one, continues in calls:
        recording.add(check(), {"lstm.l0": Call(one, last_of(one), continues)})
    return recording


def test_a_recording_is_a_mapping():
    recording = filled((trajectory(), False))
    assert list(recording) == ["lstm.l0"] and len(recording) == 1 and "lstm.l0" in recording and "l0" not in recording
    assert dict(recording.items())["lstm.l0"] is recording["lstm.l0"]
    assert recording.modules == {"lstm": 1}
    assert repr(recording).startswith("<Recording of lstm.l0; certified: 1 call recomputed")


@pytest.mark.parametrize(
    ("recording", "words"),
    [(filled((trajectory(), False)), "no layer 'l1' in this recording; it has lstm.l0"), (filled(), "it has nothing yet: call the model")],
)
def test_a_wrong_key_says_what_there_is(recording, words):
    with pytest.raises(KeyError, match=words):
        recording["l1"]


FULLY = ((True,) * 3,) * 2


def test_continued_calls_join_along_time_and_fresh_ones_along_batch():
    first, second = trajectory(FULLY, padding="none"), trajectory(((True,), (True,)), padding="none")
    joined = filled((first, False), (second, True), (second, False))["lstm.l0"]
    assert joined.valid.tolist() == [[True] * 4] * 2 + [[True, False, False, False]] * 2
    assert joined.cell_state[..., 0].tolist() == [[401, 403, 405, 401], [407, 409, 411, 403], [401, 0, 0, 0], [403, 0, 0, 0]]
    assert joined.padding == "known"
    assert joined.initial_cell_state.shape == (4, 2) and joined.first_step.tolist() == [0] * 4


def test_one_call_is_its_own_trajectory():
    one = trajectory()
    assert filled((one, False))["lstm.l0"] is one


@pytest.mark.parametrize(
    ("paddings", "expected"),
    [(("none", "none"), "none"), (("none", "known"), "known"), (("unknown", "none"), "unknown"), (("known", "unknown"), "unknown")],
)
@pytest.mark.parametrize("continues", [False, True])
def test_what_is_unknown_of_one_call_is_unknown_of_all(continues, paddings, expected):
    ends = {"none": FULLY, "known": (FULLY[0], (True, True, False)), "unknown": FULLY}
    calls = [(trajectory(ends[padding], padding=padding), continues and at > 0) for at, padding in enumerate(paddings)]
    recording = filled(*calls)
    assert recording["lstm.l0"].padding == recording.coverage.padding == expected


def test_a_call_that_comes_later_is_seen():
    recording = filled((trajectory(FULLY), False))
    assert len(recording["lstm.l0"].valid) == 2
    one = trajectory(FULLY)
    recording.add(check(), {"lstm.l0": Call(one, last_of(one), False)})
    assert len(recording["lstm.l0"].valid) == 4 and [call.continues for call in recording.calls["lstm.l0"]] == [False, False]


def test_before_of_joined_reverse_calls_starts_each_row_at_its_own_step():
    case = Case("packed_unsorted", (1, 3), bidirectional=True, initial_state=True)
    layer = torch_lstm(case)
    with record(layer) as recording:
        layer(*call_of(case))
        layer(*call_of(case._replace(lengths=(5, 2), seed=2)))
    joined = recording["l0_reverse"]
    before = joined.before("cell_state")
    for row, (step, initial) in enumerate(zip(joined.first_step, joined.initial_cell_state, strict=True)):
        close(before[row, step], initial)
    assert joined.first_step.tolist() == [0, 2, 4, 1] and joined.residual() <= 1e-12
