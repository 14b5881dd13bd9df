"""Run directories: what each holds, who may write there, and the one reader of run.json."""
