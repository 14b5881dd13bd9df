"""The parts of `scripts/pretrain_tiny.py`: corpus, model, loop and card."""
