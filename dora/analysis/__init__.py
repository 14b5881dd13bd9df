"""Finished runs compared: grouping, statistics, tables, figures, the report page."""
