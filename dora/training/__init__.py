"""One run trained: built, looped, evaluated, finished."""
