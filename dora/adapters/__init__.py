"""What a run adds to a backbone: budgets, the low-rank layer and its arithmetic, PEFT's file
format.
"""
