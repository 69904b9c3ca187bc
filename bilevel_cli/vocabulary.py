"""Which scores are better when they are higher."""

# Patterns of names, as in `Task.higher_is_better`; every other score is better when it is lower.
# Apart from the tasks, for those who read runs without torch.
HIGHER_IS_BETTER = ("*accuracy", "*f1", "*precision", "*recall", "*cosine")
