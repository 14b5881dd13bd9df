"""Guards a run, or an attached adapter, against mistakes in a method of the user's own."""
