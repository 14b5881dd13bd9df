"""Tables of finished runs: contents, notes, layout, and their files in Markdown, LaTeX and CSV."""
