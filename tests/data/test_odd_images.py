"""Images as phones, scanners, cameras and drawing programs write them: read right, or refused.

Each of the odd images is compared with pixels that numpy computes from the numbers that were put
into the file. Nothing is lost without a word: what is not read is refused or counted.
"""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standins
import torch
from data_files import built, message, png
from numpy.typing import NDArray
from PIL import Image

from bilevel_cli.data.image_folder import ImageFolder
from bilevel_cli.data.reading import images

SIDE = 16
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
COLOUR = np.stack([ROWS * 16, COLUMNS * 16, (ROWS + COLUMNS) * 8], -1).astype(np.uint8)
GREY = (ROWS * 16 + COLUMNS).astype(np.uint8)
ALPHA = (COLUMNS * 17).astype(np.uint8)
HALF = np.where(COLUMNS < 8, 0, 255).astype(np.uint8)
BAR = np.where(COLUMNS < 8, 10, 200).astype(np.uint8)
SMOOTH = np.stack([ROWS * 2 + 100, COLUMNS * 2 + 100, ROWS * 0 + 128], -1).astype(np.uint8)
LUMA = np.array([299, 587, 114]) / 1000  # ITU-R 601


def over(colour: NDArray[Any], alpha: NDArray[Any], behind: float = 255) -> NDArray[Any]:
    """What is seen: alpha c + (1 - alpha) b, for the background b."""
    share = alpha[..., None] / 255
    return share * colour + (1 - share) * behind


def grey3(grey: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(grey[..., None], 3, -1).astype(float)


def saved(array: NDArray[Any] | Image.Image, kind: str, **settings: Any) -> bytes:
    picture = array if isinstance(array, Image.Image) else Image.fromarray(array)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def raw_png(array: NDArray[Any], kind: int, bits: int, clear: bytes = b"") -> bytes:
    """A PNG file by its specification: kind 0 grey, 2 colour, 4 grey and alpha, 6 all four."""
    rows = array.astype(">u2" if bits == 16 else "u1").reshape(SIDE, -1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, bits, kind, 0, 0, 0))
    key = chunk(b"tRNS", clear) if clear else b""
    body = chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + key + body


def raw_tiff(array: NDArray[Any], tags: dict[int, tuple[int, ...]], order: str = "<") -> bytes:
    """A TIFF file of one strip by its specification; all tags are of type LONG but strips."""
    data = array.tobytes()
    count = len(tags) + 5
    place = 8 + 2 + 12 * count + 4
    known = {256: (SIDE,), 257: (SIDE,), 278: (SIDE,), 279: (len(data),), **tags}
    more, entries = b"", b""
    start = place
    offset = {273: (0,)}
    room = sum(4 * len(values) for values in known.values() if len(values) > 1)
    offset[273] = (start + room,)
    for tag, values in sorted({**known, **offset}.items()):
        if len(values) == 1:
            field = struct.pack(f"{order}I", values[0])
        else:
            field = struct.pack(f"{order}I", start + len(more))
            more += struct.pack(f"{order}{len(values)}I", *values)
        entries += struct.pack(f"{order}HHI", tag, 4, len(values)) + field
    assert len(more) == room
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return head + struct.pack(f"{order}H", count) + entries + bytes(4) + more + data


def palette(transparency: Any) -> bytes:
    """16 colours, entry i grey of level 16 i."""
    picture = Image.fromarray((COLUMNS % 16).astype(np.uint8), "P")
    picture.putpalette([level for i in range(16) for level in (16 * i,) * 3])
    return saved(picture, "PNG", transparency=transparency)


LEVELS = grey3((COLUMNS * 16).astype(np.uint8))
DEEP = GREY.astype(np.uint16) * 257  # level v of 8 bits is level 257 v of 16


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[274] = orientation
    return found


# Name, content, pixels, tolerance in levels of 255. Without loss 0; 1 where a background is
# blended, by rounding; what a codec loses at quality 95 on smooth colours is 4 levels or less.
READ: list[tuple[str, Callable[[], bytes], NDArray[Any], float]] = [
    ("rgba.png", lambda: saved(np.dstack([COLOUR, ALPHA]), "PNG"), over(COLOUR, ALPHA), 1),
    ("opaque.png", lambda: saved(np.dstack([COLOUR, ALPHA * 0 + 255]), "PNG"), COLOUR, 0),
    ("la.png", lambda: saved(np.dstack([GREY, ALPHA]), "PNG"), over(grey3(GREY), ALPHA), 1),
    ("palette.png", lambda: palette(None), LEVELS, 0),
    ("palette_key.png", lambda: palette(3), np.where(LEVELS == 48, 255.0, LEVELS), 0),
    (
        "palette_alpha.png",
        lambda: palette(bytes(17 * i for i in range(16))),
        over(LEVELS, ALPHA),
        1,
    ),
    (
        "grey_key.png",
        lambda: raw_png(BAR, 0, 8, struct.pack(">H", 10)),
        grey3(np.where(BAR == 10, 255, BAR)),
        0,
    ),
    (
        "colour_key.png",
        lambda: raw_png(np.repeat(BAR[..., None], 3, -1), 2, 8, struct.pack(">3H", 10, 10, 10)),
        grey3(np.where(BAR == 10, 255, BAR)),
        0,
    ),
    ("deep_grey.png", lambda: raw_png(DEEP, 0, 16), grey3(GREY), 0),
    (
        "deep_key.png",
        lambda: raw_png(BAR.astype(int) * 257, 0, 16, struct.pack(">H", 10 * 257)),
        grey3(np.where(BAR == 10, 255, BAR)),
        0,
    ),
    (
        "deep_colour_key.png",
        lambda: raw_png(
            np.repeat(BAR[..., None], 3, -1).astype(int) * 257,
            2,
            16,
            struct.pack(">3H", *[2570] * 3),
        ),
        grey3(np.where(BAR == 10, 255, BAR)),
        0,
    ),
    ("deep_colour.png", lambda: raw_png(COLOUR.astype(int) * 257, 2, 16), COLOUR, 0),
    (
        "deep_la.png",
        lambda: raw_png(np.dstack([GREY, ALPHA]).astype(int) * 257, 4, 16),
        over(grey3(GREY), ALPHA),
        1,
    ),
    (
        "deep_rgba.png",
        lambda: raw_png(np.dstack([COLOUR, ALPHA]).astype(int) * 257, 6, 16),
        over(COLOUR, ALPHA),
        1,
    ),
    ("bits.png", lambda: png(Image.fromarray(HALF).convert("1")), grey3(HALF), 0),
    (
        "bits_key.png",
        lambda: saved(Image.fromarray(255 - HALF).convert("1"), "PNG", transparency=0),
        grey3(HALF * 0 + 255),
        0,
    ),
    ("jpeg_named.png", lambda: saved(SMOOTH, "JPEG", quality=95, subsampling=0), SMOOTH, 4),
    (
        "cmyk.jpg",
        lambda: saved(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=95),
        SMOOTH,
        4,
    ),
    (
        "turned.jpg",
        lambda: saved(
            np.rot90(SMOOTH), "JPEG", quality=95, subsampling=0, exif=exif(6)
        ),  # to be shown after a quarter turn clockwise
        SMOOTH,
        4,
    ),
    ("lossless.webp", lambda: saved(COLOUR, "WEBP", lossless=True), COLOUR, 0),
    ("lossy.webp", lambda: saved(SMOOTH, "WEBP", quality=95), SMOOTH, 4),
    (
        "rgba.webp",
        lambda: saved(np.dstack([COLOUR, ALPHA]), "WEBP", lossless=True, exact=True),
        over(COLOUR, ALPHA),
        1,
    ),
    ("colour.bmp", lambda: saved(COLOUR, "BMP"), COLOUR, 0),
    ("colour.tiff", lambda: saved(COLOUR, "TIFF", compression="tiff_lzw"), COLOUR, 0),
    ("rgba.tif", lambda: saved(np.dstack([COLOUR, ALPHA]), "TIFF"), over(COLOUR, ALPHA), 1),
    (
        "associated.tif",  # colours already multiplied by alpha: c + (1 - alpha) b is seen
        lambda: raw_tiff(
            np.dstack([np.rint(COLOUR * (HALF / 255)[..., None]).astype(np.uint8), HALF]),
            {258: (8,) * 4, 259: (1,), 262: (2,), 277: (4,), 338: (1,)},
        ),
        over(COLOUR, HALF),
        1,
    ),
    ("turned.tif", lambda: saved(np.rot90(COLOUR), "TIFF", exif=exif(6)), COLOUR, 0),
    ("deep.tif", lambda: saved(DEEP, "TIFF"), grey3(GREY), 0),
    (
        "deep_big_endian.tif",
        lambda: raw_tiff(DEEP.astype(">u2"), {258: (16,), 259: (1,), 262: (1,), 277: (1,)}, ">"),
        grey3(GREY),
        0,
    ),
    (
        "deep_white_is_zero.tif",
        lambda: raw_tiff(65535 - DEEP, {258: (16,), 259: (1,), 262: (0,), 277: (1,)}),
        grey3(GREY),
        0,
    ),
    ("several_pages.tif", lambda: pages("TIFF"), COLOUR, 0),
    ("several_frames.webp", lambda: pages("WEBP", lossless=True), COLOUR, 0),
    ("several_frames.gif", lambda: pages("GIF", grey=True), grey3(GREY), 0),
    (
        "clear.gif",
        lambda: saved(Image.fromarray(BAR), "GIF", transparency=10),
        grey3(np.where(BAR == 10, 255, BAR)),
        0,
    ),
    ("deep.pgm", lambda: b"P5 16 16 65535\n" + DEEP.astype(">u2").tobytes(), grey3(GREY), 0),
]


def pages(kind: str, grey: bool = False, **settings: Any) -> bytes:
    """The image first, and its negative behind it."""
    first, second = (
        Image.fromarray(a) for a in ((GREY, 255 - GREY) if grey else (COLOUR, 255 - COLOUR))
    )
    return saved(first, kind, save_all=True, append_images=[second], **settings)


BYTES = {258: (8,), 259: (1,), 262: (1,), 277: (1,)}
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
REFUSED: list[tuple[str, Callable[[], bytes], str]] = [
    ("floating.tif", lambda: saved(GREY.astype(np.float32) / 255, "TIFF"), "floating numbers"),
    ("whole32.tif", lambda: saved(GREY.astype(np.int32), "TIFF"), "whole numbers of 32 bits"),
    ("phone.heic", lambda: HEIC, "reads no .heic, got 1 of them"),
    ("phone.jpg", lambda: HEIC, "it is HEIC. Convert it to JPEG or PNG"),
    ("next.jxl", lambda: b"\xff\x0a" + bytes(50), "reads no .jxl"),
    ("cut.png", lambda: saved(COLOUR, "PNG")[:-40], "cannot read"),
    ("cut.jpg", lambda: saved(COLOUR, "JPEG")[:-40], "runcated"),
    ("cut.webp", lambda: saved(COLOUR, "WEBP")[:-40], "cannot read"),
    ("cut.bmp", lambda: saved(COLOUR, "BMP")[:-40], "truncated"),
    ("cut.tif", lambda: saved(COLOUR, "TIFF")[:-40], "cannot read"),
    ("cut.gif", lambda: pages("GIF", grey=True)[:200], "cannot read"),
    ("page.png", lambda: b"<html>404 Not Found</html>", "cannot identify image file"),
    ("vector.jpg", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot identify image"),
    (
        "large_tiles.tif",
        lambda: raw_tiff(GREY, {**BYTES, 322: (2**15,), 323: (2**15,)}),
        "tiles of",
    ),
    ("large.bmp", lambda: huge(), "at most 67108864 pixels are read"),
]


def huge() -> bytes:
    """The header of 10,000 x 10,000 pixels, which Pillow would warn of."""
    small = bytearray(saved(COLOUR, "BMP"))
    small[18:26] = struct.pack("<ii", 10_000, 10_000)
    return bytes(small)


def folder_with(root: Path, name: str, content: bytes, **settings: Any) -> ImageFolder:
    """Two images of class n00, and of class n01 the given one alone."""
    standins.write_images(root, classes=1, images=2, size=SIDE)
    (root / "n01").mkdir()
    (root / "n01" / name).write_bytes(content)
    return built(ImageFolder, "image_folder", root=str(root), **{"size": SIDE, **settings})


def test_the_corpus_has_thirty_images_that_are_read_and_more_that_are_not() -> None:
    assert len(READ) >= 30
    assert len({name for name, *_ in READ}) == len(READ)
    assert len(REFUSED) >= 10


@pytest.mark.parametrize(("name", "content", "seen", "levels"), READ, ids=[r[0] for r in READ])
def test_an_odd_image_has_the_pixels_that_were_put_into_it(
    tmp_path: Path, name: str, content: Callable[[], bytes], seen: NDArray[Any], levels: float
) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    data = folder_with(tmp_path / "photos", name, content())
    x = data.read()[0].x
    assert len(x) == 3
    off = (x[2] * 255 - torch.from_numpy(np.array(seen, np.float32)).permute(2, 0, 1)).abs()
    assert off.max() <= levels + 1e-3
    grey = built(ImageFolder, "image_folder", root=data.root, size=SIDE, channels=1).read()[0].x
    luma = torch.from_numpy(np.array(seen @ LUMA, np.float32))
    # Half a level is the rounding of luma.
    assert (grey[2, 0] * 255 - luma).abs().max() <= levels + 0.51
    told = [images.TRANSPARENT, images.FRAMES, images.DEEP]
    marks = ("alpha key rgba la.png clear associated", "several", "deep")
    for note, words in zip(told, marks, strict=True):
        assert (note in data.statement) == any(word in name for word in words.split())


@pytest.mark.parametrize(("name", "content", "reason"), REFUSED, ids=[r[0] for r in REFUSED])
def test_an_image_that_would_be_read_wrong_is_refused_in_one_line_that_names_it(
    tmp_path: Path, name: str, content: Callable[[], bytes], reason: str
) -> None:
    text = message(folder_with(tmp_path, name, content()).read)
    assert reason in text
    assert name in text
    assert len(text.replace(str(tmp_path), "")) <= 400


@pytest.mark.skipif("AVIF" not in images.readable(), reason="this Pillow was built without AVIF")
def test_avif_is_read_where_pillow_can_and_refused_where_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = folder_with(tmp_path, "phone.avif", saved(SMOOTH, "AVIF", quality=95))
    assert (data.read()[0].x[2] * 255 - torch.from_numpy(SMOOTH).permute(2, 0, 1)).abs().max() <= 4
    monkeypatch.setattr(images, "readable", lambda: ["PNG", "JPEG"])
    again = built(ImageFolder, "image_folder", root=str(tmp_path), size=SIDE)
    assert "reads no .avif, got 1 of them" in message(again.read)


@pytest.mark.parametrize("name", ["rgba.png", "rgba.webp", "la.png"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("background", "behind"), [("white", 255), ("black", 0), ("#808080", 128)])
def test_a_transparent_image_is_its_twin_drawn_on_the_background_at_every_size(
    tmp_path: Path, name: str, channels: int, background: str, behind: int
) -> None:
    # What nobody sees is red: resized before it is covered, it would colour the edges.
    alpha = np.where((ROWS - 7.5) ** 2 + (COLUMNS - 7.5) ** 2 < 30, 255, 0).astype(np.uint8)
    colour = np.where(alpha[..., None] > 0, COLOUR, np.array([255, 0, 0])).astype(np.uint8)
    if name == "la.png":
        layers, colour = np.dstack([GREY, alpha]), np.repeat(GREY[..., None], 3, -1)
    else:
        layers = np.dstack([colour, alpha])
    kind = Path(name).suffix[1:].upper()
    settings = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = folder_with(
        tmp_path / "clear",
        name,
        saved(layers, kind, **settings),
        size=7,
        background=background,
        channels=channels,
    )
    drawn = png(Image.fromarray(over(colour, alpha, behind).astype(np.uint8)))
    twin = folder_with(tmp_path / "drawn", "0.png", drawn, size=7, channels=channels)
    assert torch.equal(data.read()[0].x, twin.read()[0].x)


@pytest.mark.parametrize("background", ["wite", "#12", "#ffffff80", 0, None])
def test_a_background_that_is_no_opaque_colour_is_refused(background: Any, tmp_path: Path) -> None:
    text = message(lambda: built(ImageFolder, "image_folder", background=background))
    assert "needs an opaque colour as background" in text
    assert repr(background) in text


def test_an_image_is_not_called_damaged_where_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> Any:
        raise MemoryError

    path = tmp_path / "image.png"
    path.write_bytes(saved(COLOUR, "PNG"))
    monkeypatch.setattr(images, "_levels", full)
    with pytest.raises(MemoryError):
        images.decoded(path, SIDE, 3, "ImageFolder", "white")
