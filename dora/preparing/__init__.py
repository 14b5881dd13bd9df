"""A run prepared: found, checked and planned before a model is loaded."""
