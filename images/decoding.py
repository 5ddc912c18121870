"""Bytes to pixels. This file alone decides which files are pictures, which are refused, and why.

Rules of conversion to 8-bit RGB, the same for every format:
- CMYK, palette and greyscale pictures are converted; 16-bit grey keeps its upper 8 bits, as no file states
  its range; floating-point and LAB pixels have no agreed conversion and are refused.
- Transparent pixels are composited on white, the background that pictures of objects are mostly shown on.
- The EXIF orientation is applied. A mask drawn on the stored, unturned picture is turned with it.
- Of a photograph with others beside it (MPO and HEIC, from phones) the first frame is the picture; every other
  file of several frames is refused as animated, because which frame its label means is unknown.
"""

import contextlib
import io
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile

with contextlib.suppress(ImportError):
    import pi_heif

    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)

# Pillow's list would also start Ghostscript for EPS and take text files for pictures.
_WANTED = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "HEIF")
# Endings of their names.
SUFFIXES = (
    b".jpg", b".jpeg", b".jpe", b".png", b".gif", b".bmp", b".tif", b".tiff", b".webp", b".ppm", b".pgm", b".pbm",
    b".jp2", b".avif", b".heic", b".heif", b".jxl",
)  # fmt: skip
Image.init()
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)
# Pillow warns of damaged metadata and of half its own size limit; what matters here is refused with a reason.
warnings.filterwarnings("ignore", module=r"PIL\.")

_STARTS = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
    b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51",
)  # fmt: skip
# The first box of a container. Its brands mif1 and msf1 may mean either.
_AVIF = (b"ftypavif", b"ftypavis", b"ftypmif1", b"ftypmsf1")
_HEIC = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
_JPEG_XL_STARTS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_CONTAINERS = (*(_AVIF if "AVIF" in FORMATS else ()), *(_HEIC if "HEIF" in FORMATS else ()))
_WEAK_STARTS = (b"BM", *(b"P%d" % kind for kind in range(1, 7)))
HEAD_BYTES = 32

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_VALUE_MODES = ("L", "P", "1", "I;16", "I")
IGNORED_LABEL = 255
# A decoder holds a whole tile of a TIFF, and reads each pass of a JPEG over all pixels, however few bytes it has.
_TILE_TAGS = (322, 323)
MOST_TILE_PIXELS, MOST_PASSES = 2**24, 100


class Refused(ValueError):
    """A file that is not used. `reason` is one of a few fixed phrases, `detail` one line about this file.

    Reasons given here: empty, not an image, unsupported format, truncated, damaged, animated, too large, unsupported
    pixels; and of masks: damaged mask, mask colours, mask values, mask size.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, " ".join(detail.split())
        super().__init__(f"{self.reason}: {self.detail}")


def may_be_image(head: bytes) -> bool:
    """Whether a file that begins with `head` (its first `HEAD_BYTES`) can be a picture of a known format.

    Lets a video or an archive be refused without reading it.
    """
    return _certain(head) or head.startswith(_WEAK_STARTS)


def refusal_of(head: bytes, size: int) -> Refused:
    """Why a file of `size` bytes that begins with `head` and cannot be opened is refused: a format not read here is named."""
    if head[4:12] in _HEIC and "HEIF" not in FORMATS:
        return Refused("unsupported format", "HEIC; it is read after: pip install 'semmae[formats]'")
    if head.startswith(_JPEG_XL_STARTS):
        return Refused("unsupported format", "JPEG XL; convert it to PNG or JPEG")
    if head[4:12] in _AVIF and "AVIF" not in FORMATS:
        return Refused("unsupported format", "AVIF; install a Pillow that reads it")
    if _certain(head):
        return Refused("truncated", f"incomplete or damaged header in {size} bytes")
    return Refused("not an image", f"{size} bytes that are not {', '.join(FORMATS)}")


class Geometry(NamedTuple):
    """Upright width and height in pixels, and the EXIF orientation 1..8 that the stored picture needs."""

    width: int
    height: int
    turn: int

    @property
    def stored(self) -> tuple[int, int]:
        """(width, height) of the picture as it is stored, not turned."""
        return (self.height, self.width) if self.turn >= 5 else (self.width, self.height)


def inspect(data: bytes, *, max_pixels: int) -> Geometry:
    """Geometry of a picture that can be decoded; raises `Refused` for any other.

    Every byte of the picture is decoded, but a JPEG at an eighth of its size: its whole stream is still read,
    which is what shows a truncated file, at half the time.
    """
    image = _open(data, max_pixels)
    geometry = _geometry(image)
    image.draft("RGB", (1, 1))
    _load(image)
    _to_rgb(image)
    return geometry


def decode_square(data: bytes, size: int) -> np.ndarray:
    """The WHOLE picture as (size, size, 3) uint8 RGB: aspect ratio not kept, antialiased.

    data: a file that `inspect` has accepted.
    """
    return squeezed(data, size).pixels


class Decoded(NamedTuple):
    """A whole upright picture: size (height, width) in pixels, width / height of the original, and (h, w, 3) uint8 RGB."""

    size: tuple[int, int]
    aspect: float
    pixels: np.ndarray


def squeezed(data: bytes, size: int) -> Decoded:
    """The square of `decode_square` with the aspect of its original."""
    image = _open(data, None)
    geometry = _geometry(image)
    # A JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves twice the size: 3.6 times as fast on photographs
    # of 1,300 x 1,700 and within 50 dB of the full way; with less than twice the size left it is 35 dB.
    image.draft("RGB", (2 * size, 2 * size))
    _load(image)
    square = _to_rgb(image).resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
    pixels = np.asarray(_turned(square, geometry.turn, image.format))
    return Decoded((size, size), geometry.width / geometry.height, pixels)


def decode_at_least(data: bytes, size: int) -> Decoded:
    """The picture with at least `size` pixels on either side where it has them, and less than twice that on one side.

    data: a file that `inspect` has accepted. It is made smaller by a whole number alone: a JPEG first while it is decoded
    (1/2, 1/4 or 1/8), which costs less than decoding it whole, then by means of squares of pixels.
    """
    image = _open(data, None)
    geometry = _geometry(image)
    image.draft("RGB", (size, size))
    _load(image)
    picture = _to_rgb(image)
    picture = _turned(picture.reduce(max(1, min(picture.size) // size)), geometry.turn, image.format)
    return Decoded((picture.height, picture.width), geometry.width / geometry.height, np.array(picture))


def inspect_mask(mask: bytes, geometry: Geometry, *, max_pixels: int) -> np.ndarray:
    """How many pixels of a mask that fits the picture of `geometry` have each value: (256,) int64.

    A mask is a file of one value a pixel, 0..255 (palette indices in a palette file; colours that are all grey count as one
    channel); it is as large as the stored or the upright picture. Raises `Refused`.
    """
    values = _mask_values(mask, max_pixels)
    size = values.shape[::-1]
    if size not in (geometry.stored, (geometry.width, geometry.height)):
        picture = f"picture of {geometry.width} x {geometry.height} pixels"
        raise Refused("mask size", f"mask of {size[0]} x {size[1]}, {picture}")
    return np.array(Image.fromarray(values).histogram(), dtype=np.int64)


def decode_mask_square(mask: bytes, size: int, *, image: bytes | None = None) -> np.ndarray:
    """The values (size, size) uint8 of the whole mask, nearest neighbour.

    image: the encoded picture, whose EXIF orientation turns a mask that was drawn on the stored picture; None
    where the picture is known to have none.
    """
    values = _mask_values(mask, None)
    square = Image.fromarray(values).resize((size, size), Image.Resampling.NEAREST)
    if image is not None:
        geometry = _geometry(_open(image, None))
        if values.shape[::-1] == geometry.stored:
            square = _turned(square, geometry.turn, None)
    return np.asarray(square)


def _certain(head: bytes) -> bool:
    riff = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return riff or head.startswith(_STARTS) or head[4:12] in _CONTAINERS


def _open(data: bytes, max_pixels: int | None) -> ImageFile.ImageFile:
    """The opened file, its header read and nothing decoded."""
    if not data:
        raise Refused("empty", "0 bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise Refused("too large", str(error)) from None
    except MemoryError:  # Not the picture's fault: to refuse it would leave it out of the data.
        raise
    except Exception as error:  # A damaged header makes the format readers raise nearly anything.
        raise refusal_of(data[:HEAD_BYTES], len(data)) from error
    if max_pixels is not None:
        if image.width * image.height > max_pixels:
            raise Refused("too large", f"{image.width} x {image.height} pixels, at most {max_pixels} are read")
        if image.format not in ("MPO", "HEIF") and _frames(image) > 1:
            raise Refused("animated", f"{image.format} of several frames")
        _refuse_costly(image, data, max_pixels)
    return image


def _refuse_costly(image: ImageFile.ImageFile, data: bytes, max_pixels: int) -> None:
    """Refuse a picture that is small, and that no decoder can make so cheaply."""
    if image.format == "TIFF":
        tile = [image.tag_v2.get(tag, 0) for tag in _TILE_TAGS]  # type: ignore[attr-defined]
        if not all(isinstance(side, int) for side in tile) or tile[0] * tile[1] > max(max_pixels, MOST_TILE_PIXELS):
            raise Refused("too large", f"tiles of {tile[0]} x {tile[1]} pixels")
    passes = data.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 0
    if passes > MOST_PASSES:
        raise Refused("too large", f"{passes} passes over a progressive JPEG, at most {MOST_PASSES} are decoded")


def _frames(image: ImageFile.ImageFile) -> int:
    try:
        return 2 if getattr(image, "is_animated", False) else 1
    except MemoryError:
        raise
    except Exception as error:  # Looking for a second frame reads on in a file that may end there.
        raise Refused("damaged", str(error) or type(error).__name__) from error


def _load(image: ImageFile.ImageFile) -> None:
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # A damaged stream makes the decoders raise nearly anything.
        text = str(error) or type(error).__name__
        raise Refused("truncated" if "truncated" in text.lower() else "damaged", text) from error


def _geometry(image: ImageFile.ImageFile) -> Geometry:
    if image.format == "PNG":
        _load(image)  # Its EXIF may stand behind the pixels.
    try:
        turn = image.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # Damaged metadata do not make a damaged picture.
        turn = 1
    turn = turn if turn in _TURNS else 1
    # Pillow turns TIFF files by itself, and reports their size as turned.
    swapped = turn >= 5 and image.format != "TIFF"
    return Geometry(image.height, image.width, turn) if swapped else Geometry(image.width, image.height, turn)


def _turned(image: Image.Image, turn: int, file_format: str | None) -> Image.Image:
    return image if turn == 1 or file_format == "TIFF" else image.transpose(_TURNS[turn])


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return Image.fromarray((_whole_numbers(image) >> 8).astype(np.uint8)).convert("RGB")
    try:
        if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        if image.mode in ("1", "L", "P", "CMYK", "YCbCr"):
            return image.convert("RGB")
    except (ValueError, OSError) as error:
        raise Refused("unsupported pixels", f"mode {image.mode}: {error}") from error
    raise Refused("unsupported pixels", f"mode {image.mode} has no agreed conversion to RGB")


def _whole_numbers(image: Image.Image) -> np.ndarray:
    values: np.ndarray = np.asarray(image)
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= 65535:
        raise Refused("unsupported pixels", f"values {values.min()}..{values.max()}, allowed are 0..65535")
    return values


def _mask_values(data: bytes, max_pixels: int | None) -> np.ndarray:
    """Values (height, width) uint8 of a mask file."""
    try:
        image = _open(data, max_pixels)
        _load(image)
    except Refused as refused:
        raise Refused("damaged mask", str(refused)) from refused
    values = np.asarray(image)
    if image.mode == "RGB" and (values == values[..., :1]).all():
        values = values[..., 0]
    elif image.mode not in _VALUE_MODES:
        raise Refused(
            "mask colours", f"mode {image.mode}; save masks as greyscale or palette PNG, one label id a pixel"
        )
    if not 0 <= int(values.min()) <= int(values.max()) <= IGNORED_LABEL:
        raise Refused("mask values", f"values {values.min()}..{values.max()}, allowed are 0..{IGNORED_LABEL}")
    return values.astype(np.uint8)
