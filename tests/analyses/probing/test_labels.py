"""What a label is, and how long ago it was decided."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lstm_explain as lx
from lstm_explain.analyses.probing.labels import changes, read, resolve, steps_since


@pytest.mark.parametrize(
    "values, defined, continuous",
    [
        (np.array([True, False, True]), [True, True, True], False),
        (np.array([3, -1, 0]), [True, False, True], False),
        (np.array([3, 255, 0], dtype=np.uint8), [True, True, True], False),
        (np.array(["a", "", "b"]), [True, False, True], False),
        (np.array(["a", "", "b"], dtype=object), [True, False, True], False),
        (["a", "", "b"], [True, False, True], False),
        (np.array([1.5, np.nan, -1.0]), [True, False, True], True),
        (np.array([1.5, np.nan, -1.0], dtype=np.float16), [True, False, True], True),
    ],
)
def test_the_dtype_says_what_a_label_is_and_where_it_is_undefined(values, defined, continuous):
    label = read("x", values)
    assert label.defined.tolist() == defined and label.continuous is continuous


@pytest.mark.parametrize(
    "values, kind, classes, codes",
    [
        (np.array([True, False, True]), "binary", ("0", "1"), [1, 0, 1]),
        (np.array([9, 4, 9]), "binary", ("4", "9"), [1, 0, 1]),
        (np.array(["b", "c", "a"]), "categorical", ("a", "b", "c"), [1, 2, 0]),
        (np.array([0.0, 1.0, 1.0]), "continuous", (), [0, 1, 1]),
    ],
)
def test_two_classes_are_binary_more_are_categorical_and_numbers_stay_numbers(values, kind, classes, codes):
    label = read("x", values)
    truth = resolve("x", label.values, label.continuous)
    assert (truth.kind, truth.classes, truth.values.tolist()) == (kind, classes, codes)


@pytest.mark.parametrize(
    "values, message",
    [
        (np.array([0.0, np.inf, np.nan]), r"needed finite numbers \(or NaN where undefined\) in label 'x', got infinite ones$"),
        (np.array([1j]), "needed label 'x' as booleans, whole numbers, numbers or text, got complex128$"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), r"needed label 'x' as booleans, .* got datetime64\[D\]$"),
        (np.array([b"a"]), r"needed label 'x' as booleans, .* got \|S1$"),
    ],
)
def test_what_is_no_label_is_refused(values, message):
    with pytest.raises(lx.InputError, match=message):
        read("x", values)


@pytest.mark.parametrize("values, got", [([], "none defined"), ([3, 3], "only 3"), (["a"], "only a")])
def test_one_value_only_is_refused(values, got):
    with pytest.raises(lx.InputError, match=f"^needed at least two values of label 'x', got {got}$"):
        resolve("x", np.array(values), False)


rows = st.lists(st.lists(st.sampled_from([-1, 0, 1, 2]), min_size=9, max_size=9), min_size=1, max_size=4)


@given(rows, st.sampled_from([-1, np.nan, ""]))
def test_a_change_is_another_value_or_the_edge_of_where_it_is_defined(values, undefined):
    kind = {str: str, float: float, int: int}[type(undefined)]
    array = np.array([[undefined if value == -1 else kind(value) for value in row] for row in values])
    expected = [[step == 0 or row[step] != row[step - 1] for step in range(9)] for row in values]
    assert changes(read("x", array)).tolist() == expected


@given(st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=4))
def test_steps_since_equals_a_loop(events):
    expected = []
    for row in events:
        last, since = 0, []
        for step, event in enumerate(row):
            last = step if event else last
            since.append(step - last)
        expected.append(since)
    assert steps_since(np.array(events)).tolist() == expected
