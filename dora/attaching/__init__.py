"""Methods attached to any PyTorch model, for a training loop of one's own."""
