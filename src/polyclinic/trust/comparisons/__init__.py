"""A run beside others: from scratch, by simple baselines, with few labels, along a sequence of tasks, by a factorial of recipes."""
