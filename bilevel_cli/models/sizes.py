"""What networks ask of the sizes that they are built with."""

from bilevel_cli.nn.building import Shape


def check_width(model: str, **sizes: int) -> None:
    """Raises ValueError unless every setting, by its name, is at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{model} needs {name} >= 1, got {name}={size}. Set model.{name}.")


def check_image(model: str, input_shape: Shape) -> None:
    """Raises ValueError unless `input_shape` is (channels, height, width)."""
    if len(input_shape) != 3:
        raise ValueError(
            f"{model} needs images of shape [channels, height, width], got inputs of shape "
            f"{list(input_shape)}. Use model=linear or model=mlp."
        )
