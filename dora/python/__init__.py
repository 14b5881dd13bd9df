"""The suite's commands as functions, for a script or a notebook."""
