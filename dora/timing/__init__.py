"""The benchmark: its candidates and its measurements."""
