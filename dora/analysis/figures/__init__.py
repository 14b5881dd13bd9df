"""Figures of finished runs: what each shows, their look, and their files."""
