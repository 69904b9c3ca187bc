"""Where numbers are computed: a device, its precision and memory, signals, the processes of a run.

* `device`: conf/device, applied to this process; `precision`, `malloc`: settings that it applies.
* `memory`: the budget of graphs, what is free, the peak.
* `capture`: the outer step compiled, or recorded as a CUDA graph.
* `signals`: what the user and the scheduler ask of a process.
* `ranks`: what a run asks of the processes that share it. `processes`: several of them by
  torch.distributed. `messages`: what they exchange. `place`: which of them this one is.

A new accelerator is added in `device`, `memory` and `processes`; in `bilevel_cli.nn.serving` where
the layers of that package are to serve it, and in `bilevel_cli.nn.randomness` where it has
generators of its own.
"""
