"""Small files in the real formats, for data options that read files: one function an option.

Each writes below `folder` and returns the overrides with which its option reads what it wrote.
"""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
from data_files import drawing, write_ijcnn1, write_mnist, write_zip
from PIL import Image

SPLIT = ["data.train=8", "data.validation=6", "data.test=5"]
GREEK = [f"Greek/character{number:02}" for number in range(1, 8)]


def mnist(folder: Path) -> list[str]:
    write_mnist(folder / "MNIST" / "raw")
    return [f"data.root={folder}", *SPLIT]


def fashion_mnist(folder: Path) -> list[str]:
    write_mnist(folder / "FashionMNIST" / "raw")
    return [f"data.root={folder}", *SPLIT]


def omniglot(folder: Path) -> list[str]:
    """Seven characters, which are two or three for each part, hence eight classes at least."""
    for stem, names in (("images_background", GREEK[:4]), ("images_evaluation", GREEK[4:])):
        members = {
            f"{stem}/{name}/{drawer:04}_{drawer:02}.png": drawing(GREEK.index(name), drawer)
            for name in names
            for drawer in range(1, 21)
        }
        write_zip(folder / "omniglot-py" / f"{stem}.zip", members)
    return [f"data.root={folder}", "data.train=3", "data.validation=2"]


def ijcnn1(folder: Path) -> list[str]:
    write_ijcnn1(folder / "libsvm")
    return [f"data.root={folder}", "data.test=4"]


def covtype(folder: Path) -> list[str]:
    rows = np.random.default_rng(0).integers(0, 9, size=(70, 54))
    lines = [",".join(map(str, [*row, number % 7 + 1])) for number, row in enumerate(rows)]
    (folder / "covtype.data.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return [f"data.root={folder}", "data.train=40", "data.validation=20", "data.test=10"]


def cifar10(folder: Path) -> list[str]:
    """Five files of ten records and one of twenty; in each, every class occurs."""
    home = folder / "cifar-10-batches-bin"
    home.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        count = 20 if name == "test_batch" else 10
        records = np.random.default_rng(number).integers(0, 256, (count, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(count) % 10
        records.tofile(home / f"{name}.bin")
    return [f"data.root={folder}", "data.train=20", "data.validation=20", "data.test=20"]


def frame(rows: int = 60) -> pd.DataFrame:
    """A number with gaps, a category, a boolean and a date; the two targets follow the first."""
    generator = np.random.default_rng(0)
    age = generator.normal(40, 10, rows).round(1)
    return pd.DataFrame(
        {
            "age": np.where(np.arange(rows) % 10 == 3, np.nan, age),
            "colour": np.array(["red", "green", "blue"])[generator.integers(0, 3, rows)],
            "member": generator.random(rows) < 0.5,
            "since": pd.date_range("2020-01-01", periods=rows).strftime("%Y-%m-%d"),
            "churn": np.where(age > 40, "yes", "no"),
            "price": 3 * age + generator.normal(0, 1, rows),
        }
    )


def table(folder: Path) -> list[str]:
    frame().drop(columns="price").to_csv(folder / "table.csv", index=False)
    return [f"data.path={folder}/table.csv", "data.target=churn"]


def regression_table(folder: Path) -> list[str]:
    frame().drop(columns="churn").to_csv(folder / "table.csv", index=False)
    return [f"data.path={folder}/table.csv", "data.target=price"]


def targets_table(folder: Path) -> list[str]:
    table = frame().drop(columns="churn")
    table.assign(tax=table["price"] / 5).to_csv(folder / "table.csv", index=False)
    return [f"data.path={folder}/table.csv", "data.target=[price,tax]"]


def npz(folder: Path) -> list[str]:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    np.savez_compressed(folder / "mine.npz", x=pixels, y=np.arange(60) % 10)
    return [f"data.path={folder}/mine.npz"]


def representations(folder: Path) -> list[str]:
    numbers = np.random.default_rng(0)
    a, b = numbers.normal(size=(40, 3)), numbers.normal(size=(40, 5))
    np.savez(folder / "mine.npz", a=a, b=b, y=np.arange(40) % 3)
    return [f"data.path={folder}/mine.npz", "data.x=[a,b]", "data.y=y"]


def pairs(folder: Path) -> list[str]:
    numbers = np.random.default_rng(0)
    x, y = numbers.normal(size=(60, 1, 4, 4)), numbers.normal(size=(60, 5))
    np.savez(folder / "mine.npz", x=x, y=y)
    return [f"data.path={folder}/mine.npz"]


def image_folder(folder: Path) -> list[str]:
    write_images(folder, classes=25, images=3, size=8)
    return [f"data.root={folder}", "data.size=8"]


def mini_imagenet(folder: Path) -> list[str]:
    return _class_folders(folder / "mini_imagenet")


def tiered_imagenet(folder: Path) -> list[str]:
    return _class_folders(folder / "tiered_imagenet")


def cifar_fs(folder: Path) -> list[str]:
    """As arrays, where the two others are folders of images."""
    (folder / "cifar_fs").mkdir(parents=True)
    for part in ("train", "val", "test"):
        pixels = np.random.default_rng(0).integers(0, 256, (18, 16, 16, 3), dtype=np.uint8)
        np.savez(folder / "cifar_fs" / f"{part}.npz", images=pixels, labels=np.arange(18) % 6)
    return _six_classes(folder)


def _class_folders(home: Path) -> list[str]:
    for part in ("train", "val", "test"):
        write_images(home / part, classes=6, images=3, size=16)
    return _six_classes(home.parent)


def _six_classes(root: Path) -> list[str]:
    return [
        *(f"data.root={root}", "data.size=16"),
        *(f"data.{part}=6" for part in ("train", "validation", "test")),
    ]


def write_images(folder: Path, classes: int, images: int, size: int) -> None:
    """Image i of class c is grey, of level 10 c + i."""
    for number in range(classes):
        home = folder / f"n{number:02}"
        home.mkdir(parents=True, exist_ok=True)
        for image in range(images):
            Image.new("RGB", (size, size), (10 * number + image,) * 3).save(home / f"{image}.png")
