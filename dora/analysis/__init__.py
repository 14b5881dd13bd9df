"""Finished runs compared: which count, how they group, statistics; tables, figures, the page.

From records to print, each step in its modules:

1. records → runs that are believed: `dora.records.finished`, and their curves: `run_journals`;
2. runs → those that are asked for, each with a score: `choice`, `settings`, `view`;
3. runs → a `table` of cells, one for each row (a method at a budget: `rows`) and task, several seeds
   in each: `grouping`, which leaves out and names `conflicts`. Runs that are not in its cells, as
   those that diverged: `other_runs`;
4. cells → means and differences with their errors: `stats`, `comparison`; beside papers' numbers:
   `published`;
5. all of it → text in `tables`, figures in `figures`, one HTML file in `page`, under the titles of
   `names` and the study of `studies`.

The runs that tuned learning rates go their own way: `searches`, in `tables` and `figures` too.
"""
