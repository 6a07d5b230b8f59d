"""What the report says of attributions: that they add up only where they do."""

from lstm_explain.report.attribution import _sums


def test_that_attributions_add_up_is_said_only_where_they_do():
    assert _sums(3, 3, 4e-4) == (
        "At 3 places the attributions of all steps add up to what they explain, within 4.0e-04 of it (3 of 3 inside the tolerance)"
    )
    for good in (0, 2):
        said = _sums(good, 3, 0.053)
        assert said.startswith(f"At {good} of 3 places the attributions") and "the largest residual is 5.3e-02 of it" in said
    assert _sums(0, 1, 0.053).startswith("At 0 of 1 place the")
