"""The process on its machine: signals, streams, memory, and the requirements of a run."""
