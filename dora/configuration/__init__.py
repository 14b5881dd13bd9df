"""The typed configuration: its keys, the choice of a method, its one check, searched rates."""
