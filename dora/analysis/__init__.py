"""Finished runs compared: which count, how they group, statistics; tables, figures, the page."""
