"""The covertype table of UCI, from the user's file."""

import io
import os
from pathlib import Path

import numpy as np
import torch

from bilevel_cli.data.base import Examples, Labelled, Splits, standardized
from bilevel_cli.data.reading import files

FEATURES, CLASSES = 54, 7
MAX_MEGABYTES = 120.0  # unpacked; the official file has 75.2
NAMES = ("covtype.data.gz", "covtype.data", "covtype.bz2", "covtype")  # of UCI, and of LIBSVM


class Covtype(Examples):
    """581,012 patches of forest, 54 features, 7 kinds of trees (Blackard, 1998).

    Reads `covtype.data.gz` of UCI, or the same table as LIBSVM has it, `covtype.bz2`; packed or
    not. Features are standardised with the mean and standard deviation of the training part, as in
    the bilevel benchmark (Dagreou et al., 2022, arXiv:2201.13409), whose parts are the defaults.

    Args:
        root: Folder that holds the file; null for the cache folder.
        train: Number of training examples; null for all.
        validation: Number of validation examples; null for all but those for test.
        test: Number of test examples, possibly 0.
    """

    benchmark = True
    num_classes = CLASSES

    def __init__(
        self, root: str | None, train: int | None, validation: int | None, test: int | None
    ) -> None:
        super().__init__(train, validation, test)
        self.root = root

    def read(self) -> tuple[Labelled, Labelled | None]:
        path = self._path()
        table = _read(path)
        if table.shape[1:] != (FEATURES + 1,) or not len(table):
            raise ValueError(f"{path} should hold rows of {FEATURES} features and a class.")
        kinds = table[:, -1]
        if not np.isin(kinds, range(1, CLASSES + 1)).all():
            raise ValueError(f"{path} should hold classes 1 to {CLASSES}, got others.")
        x = torch.from_numpy(table[:, :-1]).to(torch.get_default_dtype())
        y = torch.from_numpy(kinds.astype(np.int64) - 1)
        return Labelled(x, y, torch.arange(len(y))), None

    def splits(self, generator: torch.Generator) -> Splits:
        return standardized(super().splits(generator))

    def _path(self) -> Path:
        base = files.cache_folder() if self.root is None else Path(self.root).expanduser()
        for name in NAMES:
            if os.path.isfile(base / name):
                return files.inside(base / name, base, "Covtype")
        raise ValueError(
            f"Covtype needs {NAMES[0]} of UCI or {NAMES[2]} of LIBSVM, found neither in {base}. "
            "Set data.root=... to the folder that holds one; none is downloaded."
        )


def _read(path: Path) -> np.ndarray:
    """The table, float64, of shape [n, 55] where it is whole; the class comes last."""
    try:
        content = files.content(path, "Covtype", MAX_MEGABYTES, "It is another file.")
        if path.name.startswith("covtype.data"):
            import pandas as pd  # here: a run on other data does not wait for it

            table = pd.read_csv(io.BytesIO(content), header=None, dtype=np.float64)
            return table.to_numpy()
        from sklearn.datasets import load_svmlight_file  # here: it takes a second to import

        x, y = load_svmlight_file(io.BytesIO(content), n_features=FEATURES)
        return np.column_stack([x.toarray(), y])
    except (OSError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{path} cannot be read: {reason}. Fetch it again.") from error
