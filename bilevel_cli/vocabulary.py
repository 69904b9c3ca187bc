"""Words that those who write a run and those who read it share. Imports nothing."""

# Patterns of names, as in `Task.higher_is_better`; every other score is better when it is lower.
HIGHER_IS_BETTER = ("*accuracy", "*f1", "*precision", "*recall", "*cosine")

WITHOUT_A_NUMBER = ("diverged", "failed", "oom")  # such a run has no score, whatever it wrote
ENDED_BADLY = (*WITHOUT_A_NUMBER, "killed")  # the curve of such a run ends in a cross
