"""Tables of finished runs: contents, notes, layout, and their files in Markdown, LaTeX and CSV.

`contents` lists a study's tables. Each has a module: `scores` with its `published_rows`,
`differences`, `costs`, `counts`, `run_settings`. The notes below the scores come from `notes`, with
`run_notes` on how runs were made and `unlike` on how rows differ. A table is a Grid of `layout`,
which writes Markdown; `latex` and `latex_cells` write print, `csv_lines` the numbers, and `files`
names all files. Two tables are of other runs: `progress` and `searches`.
"""
