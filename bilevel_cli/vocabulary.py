"""Words that those who write a run and those who read it share. Imports nothing."""

# How a run or a job of a sweep stands.
COMPLETED = "completed"
RUNNING = "running"
INTERRUPTED = "interrupted"  # by a signal; the same command continues it
FAILED = "failed"
DIVERGED = "diverged"
OOM = "oom"  # out of memory
KILLED = "killed"  # noted as running, by a process that is no more; no file says so
WAITING = "waiting"  # a job that was launched and has not begun
MISSING = "missing"  # a job that never began; no file says so
REFUSED = "refused"  # a job whose settings are wrong

WITHOUT_A_NUMBER = (DIVERGED, FAILED, OOM)  # such a run has no score, whatever it wrote
ENDED_BADLY = (*WITHOUT_A_NUMBER, KILLED)  # the curve of such a run ends in a cross

# The files in the folder of a run; JOB is that of a job of a sweep.
TRAIN = "train.csv"
EVAL = "eval.csv"
MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"  # the one before it
JOB = "job.json"
LOCK = "lock"
LOG = "bilevel.log"
TRACEBACK = "traceback.txt"
NOTES = ".hydra"  # a folder: the configuration, as Hydra noted it

# How the columns of eval.csv begin that are scores after other numbers of inner steps than those of
# training: the number follows, and then the name of the score.
TEST_STEPS = "test_steps_"

# Patterns of names, as in `Task.higher_is_better`; every other score is better when it is lower.
HIGHER_IS_BETTER = ("*accuracy", "*f1", "*precision", "*recall", "*cosine")
