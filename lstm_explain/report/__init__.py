"""The roof: ``python -m lstm_explain.report`` explains a study, as one page that can be mailed and the files behind it."""
