"""The command line: Hydra, mistakes explained, sweeps."""
