"""Tables of raw measurements, one CSV file each."""

import csv
from pathlib import Path
from typing import Any


def append(path: Path, **row: Any) -> None:
    """Adds a row, and a header to a new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(
        ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{v}" for k, v in row.items()),
        flush=True,
    )
