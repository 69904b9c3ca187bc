"""Dataset distillation: a few learned examples that train as well as all."""
