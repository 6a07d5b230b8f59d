"""The rare-feature and rare-time experiments give the published figures (Crabbé & van der Schaar 2021)."""

import benchmark_attribution as benchmark
import numpy as np
import pytest

KINDS = ("rare feature", "rare time")


@pytest.mark.parametrize("kind", KINDS)
def test_integrated_gradients_are_as_published(kind):
    found = benchmark.measured(kind, "integrated gradients", range(4)).mean(0)
    aup, aur, information, entropy, auroc, auprc = found
    assert aup >= 0.9995 and auroc == auprc == 1.0
    # A fold's AUR varies by 0.004 to 0.010; the expected one is E[mean z² / max z²] of 125 normal numbers, 0.1306.
    assert abs(aur - 0.130) < 0.020 and abs(information - 455) < 60 and abs(entropy - 475) < 45
    published = benchmark.PUBLISHED[kind, "integrated gradients"]
    np.testing.assert_allclose(found[:4], published, rtol=0.15)


def test_the_expected_recall_is_that_of_squares_of_normal_numbers():
    squares = np.random.default_rng(0).standard_normal((4000, 125)) ** 2
    assert abs((squares.mean(1) / squares.max(1)).mean() - 0.1306) < 0.001


def test_references_say_what_the_scores_reward():
    for kind in KINDS:
        aup, aur, _, _, auroc, auprc = benchmark.measured(kind, "perfect mask", range(2)).mean(0)
        assert abs(aup - 0.525) < 0.001 and aur == auroc == auprc == 1.0
        aup, aur, _, _, auroc, _ = benchmark.measured(kind, "random", range(8)).mean(0)
        assert abs(aup - 0.05) < 0.005 and abs(aur - 0.5) < 0.02 and abs(auroc - 0.5) < 0.01
        assert abs(benchmark.measured(kind, "saliency", range(4)).mean(0)[1] - 0.286) < 0.03


def test_of_squares_shapley_values_are_ablations(monkeypatch):
    # A smaller box of the same kind: the functions are additive.
    for name, value in {"SERIES": 2, "TIME": 12, "FEATURES": 12, "FEW": 2, "MANY": slice(3, 9)}.items():
        monkeypatch.setattr(benchmark, name, value)
    for kind in KINDS:
        case = benchmark.drawn(kind, 0)
        ablation, shapley = (benchmark.attributed(method, *case) for method in ("feature ablation", "Shapley value sampling"))
        np.testing.assert_allclose(shapley, ablation, rtol=0, atol=1e-12)
        assert (ablation[~case[1]] < 1e-12).all()


def test_the_series_are_autoregressive():
    x, salient = benchmark.drawn("rare feature", 3)
    noise = x.copy()
    for lag, weight in ((1, 0.25), (2, 0.1), (3, 0.05)):
        noise[:, lag:] += weight * x[:, :-lag]
    np.testing.assert_allclose(noise, np.random.default_rng(3).standard_normal(x.shape), rtol=0, atol=1e-12)
    assert salient.sum((1, 2)).tolist() == [125] * 10 and benchmark.drawn("rare time", 3)[1].any(1).sum(1).tolist() == [25] * 10
