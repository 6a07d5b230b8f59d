"""What a report can explain, ready-made: `STUDIES` maps a study's name to the ``module:function`` that makes it."""

STUDIES = {
    "python_source": "lstm_explain.studies.python_source:make",
    "python_source_lstm": "lstm_explain.studies.python_source:make_lstm",
    "planted": "lstm_explain.studies.planted:make",
}
