"""Pretrained models: their files, their architectures, and how one is loaded."""
