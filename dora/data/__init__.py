"""GLUE: the tasks, where their rows come from, and how they become batches."""
