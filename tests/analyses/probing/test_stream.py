"""A probing as a stream: any split is the whole, and what doesn't go together is refused."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probed import CELLS, SYMBOLS, Y, kinds_of, planted, slow_waves

import lstm_explain as lx


@settings(max_examples=4)
@given(st.lists(st.integers(1, 11), max_size=3, unique=True), st.randoms())
def test_any_split_into_whole_sequences_in_any_order_is_the_whole(cuts, random):
    rng = np.random.default_rng(0)
    groups, lengths = list("abcabdefgghi"), rng.integers(15, 31, 12)
    cells, *twins = (slow_waves(rng, 12, 30, 3) for _ in range(3))
    symbols = rng.integers(0, np.arange(2, 14)[:, None], (12, 30))  # later sequences bring symbols that earlier ones don't have
    labels = kinds_of(cells[:, :, 1] + rng.normal(size=(12, 30)))
    settings = {"folds": 3, "stride": 2, "window": 3, "seed": 1, "signals": ["cell_state", "hidden_state"], "joint": True}
    parts = [list(range(a, b)) for a, b in pairwise([0, *sorted(cuts), 12])]

    def stream(sequences):
        one = lx.Probing(groups, **settings)
        one.update(
            planted(cells[sequences], lengths=lengths[sequences]),
            {name: label[sequences] for name, label in labels.items()},
            [groups[at] for at in sequences],
            untrained=[planted(twin[sequences], lengths=lengths[sequences]) for twin in twins],
            inputs=torch.as_tensor(symbols[sequences]),
            types=symbols[sequences],
        )
        return one

    whole = stream(list(range(12))).compute(resamples=50, permutations=20)
    in_order = lx.Probing(groups, **settings)
    for part in parts:
        in_order.merge(stream(part))
    random.shuffle(parts)
    merged = lx.Probing(groups, **settings)
    for part in parts:
        merged.merge(stream(part))
    for split, same_order in (
        (in_order.compute(resamples=50, permutations=20), True),
        (merged.compute(resamples=50, permutations=20), False),
    ):
        assert (split.fold_of, split.stride, split.padding, split.cells, split.twins) == (whole.fold_of, 2, "known", whole.cells, 2)
        for name, found in whole.labels.items():
            again = split.labels[name]
            assert (again.steps, again.long_range_steps, again.classes) == (found.steps, found.long_range_steps, found.classes)
            np.testing.assert_allclose(again.units.scores, found.units.scores, rtol=0, atol=1e-9)
            # Moves of the labels follow the order of the sequences.
            assert not same_order or (again.p_value, again.units.p_values.tolist()) == (found.p_value, found.units.p_values.tolist())
            # Logistic regression stops when it is near enough.
            tolerance = 1e-9 if found.kind == "continuous" else 1e-3
            for source, probed in (found.probes | found.controls).items():
                other = (again.probes | again.controls)[source]
                assert other.units == probed.units
                np.testing.assert_allclose(np.ravel(other[:3]), np.ravel(probed[:3]), rtol=0, atol=tolerance)
                np.testing.assert_allclose(np.ravel(other[4:]), np.ravel(probed[4:]), rtol=0, atol=tolerance)
                assert np.isfinite(probed.selectivity.value) == (source in found.probes)
            for one, other in zip(found.twins, again.twins, strict=True):
                np.testing.assert_allclose(np.ravel(other[:3]), np.ravel(one[:3]), rtol=0, atol=tolerance)


def test_a_stream_takes_updates_one_after_another():
    rng = np.random.default_rng(0)
    cells, label = slow_waves(rng, 10, 20, 3), rng.random((10, 20)) > 0.5
    whole = lx.probe(planted(cells), label, resamples=20, permutations=20)
    stream = lx.Probing(range(10))
    for part in (range(1), range(1, 10)):
        stream.update(planted(cells[part]), {"label": label[part]}, list(part))
    assert stream.compute(resamples=20, permutations=20).to_dict() == whole.to_dict()


def test_a_stream_computes_some_of_its_labels():
    rng = np.random.default_rng(0)
    stream, labels = lx.Probing(range(10)), kinds_of(rng.normal(size=(10, 20)))
    stream.update(planted(slow_waves(rng, 10, 20, 3)), labels, range(10))
    every = stream.compute(resamples=20, permutations=20).to_dict()["labels"]
    some = stream.compute(labels=["categorical", "binary"], resamples=20, permutations=20).to_dict()["labels"]
    assert list(some) == ["categorical", "binary"] and list(every) == list(labels)
    assert all(some[name] == every[name] for name in some)


def sums_of(stream):
    """All that a stream adds up, by source, label and fold."""
    grams = {key: [getattr(gram, name) for name in ("n", "x", "y", "xx", "xy", "yy")] for key, gram in stream._products._grams.items()}
    return grams, {key: [levels.n, levels.x] for key, levels in stream._products._levels.items()}


def test_sums_of_parts_are_those_of_the_whole_and_labels_that_are_defined_alike_share_them():
    rng = np.random.default_rng(0)
    cells, wave, types = slow_waves(rng, 12, 30, 4), rng.normal(size=(12, 30)), rng.integers(0, 9, (12, 30))
    # The third label is undefined where the others aren't, but only later on.
    labels = {"one": wave, "other": wave**2, "third": np.where(np.arange(12)[:, None] < 8, wave, np.nan)}

    def stream(sequences):
        one = lx.Probing(range(12), folds=3)
        part = {name: label[sequences] for name, label in labels.items()}
        one.update(planted(cells[sequences]), part, sequences, untrained=planted(cells[sequences] ** 2), types=types[sequences])
        return one

    whole, parts = stream(list(range(12))), [stream([3, 1, 2]), stream([0, 9, 8, 4, 10]), stream([5, 6, 7, 11])]
    updated, merged = lx.Probing(range(12), folds=3), lx.Probing(range(12), folds=3)
    for part in ([3, 1, 2], [0, 9, 8, 4, 10], [5, 6, 7, 11]):
        some = {name: label[part] for name, label in labels.items()}
        updated.update(planted(cells[part]), some, part, untrained=planted(cells[part] ** 2), types=types[part])
    for part in parts:
        merged.merge(part)
    for found, expected in ((sums_of(one), sums_of(whole)) for one in (updated, merged)):
        for kind, of in zip(found, expected, strict=True):
            assert kind.keys() == of.keys() and kind
            for key, sums in of.items():
                assert kind[key][0] is not None and np.array_equal(kind[key][0], sums[0])  # counts
                for one, other in zip(kind[key], sums, strict=True):
                    np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-11)
    for one in (whole, updated, merged):
        grams = one._products._grams
        for source, name, fold in grams:
            if name == "one":
                assert grams[source, "other", fold].xx is grams[source, "one", fold].xx
                assert grams[source, "third", fold].xx is not grams[source, "one", fold].xx or (
                    grams[source, "third", fold].n == grams[source, "one", fold].n
                )
    assert {fold for (_, name, fold), gram in whole._products._grams.items() if name == "third" and gram.n < 120}


# ---- What does not go together


def test_a_stream_refuses_what_does_not_go_together():
    stream = lx.Probing(range(6))
    with pytest.raises(lx.InputError, match="^needed at least one recording, got none: call update first$"):
        stream.compute()
    with pytest.raises(lx.InputError, match="^needed groups that were announced, got 9$"):
        stream.update(planted(CELLS), {"y": Y}, [0, 1, 2, 9, 4, 5])
    with pytest.raises(lx.InputError, match="^needed at least one recorded layer, got none"):
        stream.update({}, {"y": Y}, range(6))
    stream.update(planted(CELLS), {"y": Y}, range(6))
    with pytest.raises(lx.InputError, match="^needed label 'y' of one kind throughout, got numbers and classes$"):
        stream.update(planted(CELLS), {"y": Y * 1.0}, range(6))
    for other in ({"folds": 3}, {"stride": 2}, {"window": 3}, {"seed": 1}, {"signals": "cell_state"}, {"joint": True}):
        with pytest.raises(lx.InputError, match="^needed streams with the same groups, .*, window, seed, signals and joint, got others$"):
            stream.merge(lx.Probing(range(6), **other))


@pytest.mark.parametrize(
    "second", [{"labels": {"z": Y}}, {"untrained": planted(CELLS)}, {"inputs": SYMBOLS}, {"recording": planted(CELLS, name="l1")}]
)
def test_updates_that_do_not_go_together(second):
    stream = lx.Probing(range(6))
    first = {"recording": planted(CELLS), "labels": {"y": Y}, "groups": range(6)}
    stream.update(**first)
    with pytest.raises(lx.InputError):
        stream.update(**first | second)
        stream.compute(resamples=5, permutations=5)


def test_an_update_that_was_refused_leaves_half_of_itself():
    # Labels must not be kept before states are looked at.
    stream = lx.Probing(range(6))
    with pytest.raises(lx.InputError):
        stream.update(planted(CELLS * np.nan), {"y": Y}, range(6))
    stream.update(planted(CELLS), {"y": Y}, range(6))
    assert stream.compute(resamples=5, permutations=5).labels["y"].steps == 54


def test_merge_does_not_compare_the_phase():
    # The message says seed; fold_of of few groups can be the same for two seeds, and the steps kept then aren't.
    one, other = (lx.Probing(range(2), folds=2, stride=5, seed=seed) for seed in (0, 4))
    with pytest.raises(lx.InputError):
        one.merge(other)


@pytest.mark.parametrize(
    "second, message",
    [
        ({"labels": {"z": Y}}, "needed the labels y, each of its kind, got z"),
        ({"labels": {"y": Y * 1.0}}, "needed the labels y, each of its kind, got y"),
        ({"untrained": planted(CELLS)}, "needed the same layers and controls as before, got others"),
        ({"types": SYMBOLS.numpy()}, "needed the same layers and controls as before, got others"),
        ({"inputs": SYMBOLS}, "needed the same layers and controls as before, got others"),
        ({"recording": planted(CELLS, name="l1")}, "needed the same layers and controls as before, got others"),
        ({"recording": planted(CELLS[:, :, :1])}, "needed the same layers and controls as before, got others"),
    ],
)
def test_streams_that_saw_other_things_do_not_merge_and_stay_as_they_are(second, message):
    first = {"recording": planted(CELLS), "labels": {"y": Y}, "groups": range(6)}
    one, other = lx.Probing(range(6)), lx.Probing(range(6))
    one.update(**first)
    before = one.compute(resamples=5, permutations=5).to_dict()
    other.update(**first | second)
    with pytest.raises(lx.InputError, match=f"^{message}$"):
        one.merge(other)
    with pytest.raises(lx.InputError):
        one.update(**first | second)
    assert one.compute(resamples=5, permutations=5).to_dict() == before


def test_streams_whose_groups_came_in_another_order_do_not_merge():
    # Groups are numbered as they come: of two in the same fold, one would be taken for the other.
    one = lx.Probing(range(6), folds=3)
    order, (first, second) = list(range(6)), [group for group, fold in one.fold_of.items() if fold == 0]
    order[first], order[second] = second, first
    other = lx.Probing(order, folds=3)
    assert one.fold_of == other.fold_of
    with pytest.raises(lx.InputError, match="^needed streams with the same groups"):
        one.merge(other)


def test_an_empty_stream_adds_nothing_whichever_way_round():
    for turned in (False, True):
        full, empty = lx.Probing(range(6)), lx.Probing(range(6))
        full.update(planted(CELLS), {"y": Y}, range(6), types=SYMBOLS.numpy())
        expected = full.compute(resamples=5, permutations=5).to_dict()
        one, other = (empty, full) if turned else (full, empty)
        one.merge(other)
        assert one.compute(resamples=5, permutations=5).to_dict() == expected


def test_the_bar_shows_when_asked_for_and_not_otherwise(capfd):
    stream = lx.Probing(range(6))
    stream.update(planted(CELLS), {"y": Y}, range(6))
    for progress in (None, False, True):
        stream.compute(resamples=5, permutations=5, progress=progress)
        assert ("probing: 100%" in capfd.readouterr().err) == (progress is True)


def test_some_labels_that_are_none():
    stream = lx.Probing(range(6))
    stream.update(planted(CELLS), {"y": Y}, range(6))
    with pytest.raises(lx.InputError):
        stream.compute(labels=["z"])
