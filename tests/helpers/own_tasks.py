"""Tasks as users write them."""

from bilevel_cli.nn.functional import Functional
from bilevel_cli.tasks.hyperparameters import Hyperparameters


class ModelInADict(Hyperparameters):
    """Keeps its models in lists, as one that has several does."""

    @property
    def model(self) -> Functional:
        return self.models["own"][0]

    @model.setter
    def model(self, model: Functional) -> None:
        self.models = {"own": [model]}
