"""Finished runs for others: export, merge, model card, leaderboard files."""
