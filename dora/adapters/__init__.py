"""Adapters: budgets, the low-rank layer and its arithmetic, and PEFT's file format."""
