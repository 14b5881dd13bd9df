"""The process on its machine: signals, streams, memory, and what it needs to be there."""
