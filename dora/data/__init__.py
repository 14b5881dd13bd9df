"""GLUE: its tasks, where their rows come from, tokens, metrics and predictions."""
