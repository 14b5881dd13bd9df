"""One run: prepared, trained, evaluated, finished."""
