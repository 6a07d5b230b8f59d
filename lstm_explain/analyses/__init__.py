"""One question per file: a recording (or a model) in, a frozen result out. Analyses don't know each other."""
