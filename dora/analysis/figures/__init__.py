"""Figures of finished runs: what each shows, their look, and their files.

`files` lists the figures of a table and writes them. They are in `scores`, `differences`, `costs`,
`training` and `lengths`, and draw by `style`, `log_axis` and `points`; `searches` has the figure of
learning rates.
"""
