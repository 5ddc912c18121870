import base64
import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from images import decoding
from images.decoding import (
    HEAD_BYTES,
    Geometry,
    Refused,
    decode_at_least,
    decode_mask_square,
    decode_square,
    inspect,
    inspect_mask,
    may_be_image,
    refusal_of,
    squeezed,
)

LIMIT = 1_000_000
FORMATS = [
    ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("WEBP", {"lossless": True}),
    ("TIFF", {}), ("TIFF", {"compression": "jpeg"}), ("BMP", {}), ("PPM", {}), ("JPEG2000", {}),
]  # fmt: skip

# 64 x 32 pixels, red left of blue, with a second picture beside it. Nothing installed writes this format.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAaxtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAAAAAERAAA"
    "IAAQAAAAAB0AABAAAAAAAAACUAAgAAAAAB9QABAAAAAAAAACUAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZlAgAAAAACAABo"
    "dmMxAAAAAA5waXRtAAAAAAABAAABBWlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAA"
    "MAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlz"
    "cGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAIAAAAAEAAAAAAAAAAv///+AAAAACAAAAEHBpeGkAAAAAAwgICAAAACBpcG1hAAAAAAAAAAIAAQ"
    "WBAgMFhAACBYECAwWEAAAAUm1kYXQAAAAhKAGvGYDvSaW//+BmX/flr/l+yF//w08d9pen/Flg21vAAAAAISgBrxmA70mlv//u2mEfTRG/UsheF8NPn/aX"
    "fnxZYNtbwA=="
)  # fmt: skip


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decode(data):
    """The whole picture at its own size."""
    return Image.fromarray(decode_at_least(data, LIMIT).pixels)


def picture(width=48, height=32, seed=0):
    steps = np.random.default_rng(seed).normal(0, 6, (height, width, 3))
    return Image.fromarray((np.cumsum(steps, axis=1) + 128).clip(0, 255).astype(np.uint8))


def turned_file(image, orientation, format="PNG"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, format, exif=exif)


def reason_of(function, *arguments, **named):
    with pytest.raises(Refused) as caught:
        function(*arguments, **named)
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize(("format", "options"), FORMATS)
def test_decode__every_format_gives_rgb_of_its_size(format, options):
    data = encoded(picture(), format, **options)
    image = decode(data)
    assert (image.mode, image.size) == ("RGB", (48, 32))
    assert inspect(data, max_pixels=LIMIT) == Geometry(48, 32, 1)
    assert may_be_image(data[:HEAD_BYTES])
    if format in ("PNG", "WEBP", "TIFF", "BMP", "PPM") and not options.get("compression"):
        assert np.array_equal(np.asarray(image), np.asarray(picture()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("format", "options"), FORMATS)
def test_inspect__refuses_a_file_wherever_it_is_cut_as_decoding_does(format, options):
    data = encoded(picture(), format, **options)
    for cut in {*range(1, 60, 5), *range(60, len(data) - 8, max(1, len(data) // 20))}:
        assert reason_of(inspect, data[:cut], max_pixels=LIMIT) in ("truncated", "damaged", "not an image"), cut
        with pytest.raises(Refused):
            decode(data[:cut])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_inspect__half_a_file_is_truncated(format):
    data = encoded(picture(), format)
    assert reason_of(inspect, data[: len(data) // 2], max_pixels=LIMIT) == "truncated"


def test_inspect__what_is_no_image_is_told_apart():
    assert reason_of(inspect, b"", max_pixels=LIMIT) == "empty"
    for data in (b"BMW is a car", b"P5 road", b"\0\0\0\1Bud1", b"%!PS-Adobe", b"<svg/>"):
        assert reason_of(inspect, data, max_pixels=LIMIT) == "not an image", data
    frames = [picture(seed=seed) for seed in range(3)]
    for format in ("GIF", "PNG", "WEBP", "TIFF"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        assert reason_of(inspect, data, max_pixels=LIMIT) == "animated", format
    assert reason_of(inspect, encoded(Image.new("F", (4, 4)), "TIFF"), max_pixels=LIMIT) == "unsupported pixels"


@pytest.mark.parametrize(
    ("data", "absent", "detail"),
    [
        (HEIC, "HEIF", r"HEIC; .*pip install 'semmae\[formats\]'"),
        (HEIC.replace(b"ftypheic", b"ftypmif1"), "HEIF", "HEIC"),
        (b"\0\0\0\x20ftypavif" + bytes(20), "AVIF", "AVIF; install a Pillow that reads it"),
        (b"\xff\x0a" + bytes(30), "", "JPEG XL; convert it"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "", "JPEG XL"),
    ],
)
def test_inspect__a_picture_of_a_format_that_is_not_read_is_named(monkeypatch, data, absent, detail):
    monkeypatch.setattr("images.decoding.FORMATS", tuple(name for name in decoding.FORMATS if name != absent))
    with pytest.raises(Refused, match=detail) as caught:
        inspect(data, max_pixels=LIMIT)
    assert caught.value.reason == refusal_of(data[:HEAD_BYTES], len(data)).reason == "unsupported format"


@pytest.mark.skipif("HEIF" not in decoding.FORMATS, reason="pi-heif is not installed: HEIC was not decoded")
def test_decode__heic_where_its_plugin_is_installed():
    assert may_be_image(HEIC[:HEAD_BYTES])
    assert inspect(HEIC, max_pixels=64 * 32) == Geometry(64, 32, 1)
    pixels = np.asarray(decode(HEIC)).astype(int)
    assert abs(pixels[:, :30] - (220, 20, 20)).max() < 8 and abs(pixels[:, 34:] - (20, 20, 220)).max() < 8
    assert reason_of(inspect, HEIC, max_pixels=64 * 32 - 1) == "too large"
    # Its end is the second picture.
    for cut in range(12, 3 * len(HEIC) // 4, 7):
        assert reason_of(inspect, HEIC[:cut], max_pixels=LIMIT) in ("truncated", "damaged"), cut


def test_inspect__a_bomb_is_refused_by_its_header():
    bomb = bytearray(encoded(Image.new("1", (8, 8))))
    bomb[16:24] = (50_000).to_bytes(4, "big") * 2  # Width and height of the PNG header; its checksum is wrong now.
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    assert reason_of(inspect, bytes(bomb), max_pixels=LIMIT) == "too large"
    data = encoded(picture(48, 32))
    assert reason_of(inspect, data, max_pixels=48 * 32 - 1) == "too large"
    assert inspect(data, max_pixels=48 * 32).width == 48


def test_decode__the_first_frame_of_a_phone_photograph_is_kept():
    photograph, preview = Image.new("RGB", (16, 8), "red"), Image.new("RGB", (16, 8), "blue")
    data = encoded(photograph, "MPO", save_all=True, append_images=[preview])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    red, _, blue = decode(data).getpixel((0, 0))
    assert red > 200 > 50 > blue


def test_decode__grey_palette_cmyk_and_sixteen_bit():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    grey = np.repeat(ramp[..., None], 3, axis=2)
    sixteen = encoded(Image.fromarray(ramp.astype(np.uint16) * 256 + 77))
    palette = encoded(Image.fromarray(ramp).convert("P"))
    for data in (encoded(Image.fromarray(ramp)), sixteen, palette):
        assert np.array_equal(np.asarray(decode(data)), grey)
    white = decode(encoded(Image.new("CMYK", (8, 8)), "JPEG"))
    assert np.asarray(white).min() > 250
    single = decode(encoded(Image.new("1", (1, 1), 1)))
    assert (single.size, single.getpixel((0, 0))) == ((1, 1), (255, 255, 255))


def test_decode__transparent_pixels_become_white():
    half = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    half.putpixel((1, 0), (200, 0, 0, 0))
    for image, options in ((half, {}), (half.convert("P"), {"transparency": 0})):
        colours = np.asarray(decode(encoded(image, **options)))
        assert [255, 255, 255] in colours[0].tolist()
    assert np.asarray(decode(encoded(half))).tolist() == [[[200, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode__applies_the_exif_orientation_as_pillow_does(orientation, format):
    data = turned_file(picture(), orientation, format)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    image = decode(data)
    assert np.array_equal(np.asarray(image), np.asarray(expected))
    geometry = inspect(data, max_pixels=LIMIT)
    assert (geometry.width, geometry.height) == image.size
    assert geometry.stored == (48, 32)
    size, aspect, square = squeezed(data, 16)
    whole = np.asarray(expected.resize((16, 16), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(square - whole).mean() < 3
    assert size == (16, 16) and aspect == image.width / image.height


@pytest.mark.filterwarnings("ignore")
def test_decode__damaged_metadata_do_not_harm_the_picture():
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert decode(data).size == (48, 32)


def test_decode_square__is_close_to_the_whole_picture_resized_at_full_size():
    image = picture(80, 60).resize((640, 480), Image.Resampling.BICUBIC)
    data = encoded(image, "JPEG", quality=95)
    reference = np.asarray(Image.open(io.BytesIO(data)).resize((64, 64), Image.Resampling.BICUBIC)).astype(float)
    square = decode_square(data, 64)
    assert (square.shape, square.dtype) == ((64, 64, 3), np.uint8)
    assert 10 * np.log10(255**2 / np.mean((square - reference) ** 2)) > 40


def test_decode_square__covers_the_whole_picture():
    image = Image.new("RGB", (90, 10), "black")
    image.paste("white", (60, 0, 90, 10))
    square = decode_square(encoded(image), 30)
    assert square[:, :19].max() < 10
    assert square[:, 21:].min() > 245


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16"])
def test_mask__label_ids_survive_every_single_channel_mode(mode):
    labels = np.random.default_rng(0).integers(0, 2 if mode == "1" else 7, (20, 30))
    if mode == "P":
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette(np.random.default_rng(1).integers(0, 256, 768).tolist())
    else:
        image = Image.fromarray(labels.astype({"L": np.uint8, "1": bool, "I;16": np.uint16}[mode]))
    data = encoded(image)
    counts = np.bincount(labels.ravel(), minlength=256)
    assert np.array_equal(inspect_mask(data, Geometry(30, 20, 1), max_pixels=LIMIT), counts)
    rows, columns = np.arange(10) * 2 + 1, np.arange(10) * 3 + 1
    assert np.array_equal(decode_mask_square(data, 10), labels[np.ix_(rows, columns)])


def test_mask__another_size_or_kind_is_refused():
    image = Geometry(30, 20, 1)
    mask = encoded(Image.new("L", (30, 20), 3))
    assert inspect_mask(mask, image, max_pixels=LIMIT)[3] == 600
    assert reason_of(inspect_mask, mask, Geometry(20, 30, 1), max_pixels=LIMIT) == "mask size"
    assert reason_of(inspect_mask, encoded(Image.new("I;16", (30, 20), 300)), image, max_pixels=LIMIT) == "mask values"
    for data in (b"", b"text", mask[:50]):
        assert reason_of(inspect_mask, data, image, max_pixels=LIMIT) == "damaged mask"


def test_mask__colours_are_refused_and_grey_ones_read_as_one_channel():
    image, grey = Geometry(30, 20, 1), Image.fromarray((np.arange(600) % 7).astype(np.uint8).reshape(20, 30))
    mask = encoded(Image.merge("RGB", [grey] * 3))
    assert np.array_equal(inspect_mask(mask, image, max_pixels=LIMIT), np.bincount(np.arange(600) % 7, minlength=256))
    assert np.array_equal(decode_mask_square(mask, 10), decode_mask_square(encoded(grey), 10))
    for mode, colour in (("RGB", (255, 0, 0)), ("RGBA", (0, 0, 0, 255)), ("LA", (0, 255))):
        coloured = encoded(Image.new(mode, (30, 20), colour))
        assert reason_of(inspect_mask, coloured, image, max_pixels=LIMIT) == "mask colours"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_mask__follows_its_picture_through_the_orientation(orientation):
    # 45 and 27 by 9 are odd steps: their middle pixel stays the middle when they are turned.
    labels = Image.fromarray((np.arange(45 * 27).reshape(27, 45) % 7).astype(np.uint8))
    image = turned_file(Image.merge("RGB", [labels] * 3), orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(image))).getchannel(0)
    truth = upright.resize((9, 9), Image.Resampling.NEAREST)
    inspect_mask(encoded(labels), inspect(image, max_pixels=LIMIT), max_pixels=LIMIT)
    assert np.array_equal(decode_mask_square(encoded(labels), 9, image=image), np.asarray(truth))


def test_mask__already_upright_stays():
    image = turned_file(picture(), 6)
    upright = Image.fromarray((np.arange(48 * 32).reshape(48, 32) % 7).astype(np.uint8))
    inspect_mask(encoded(upright), inspect(image, max_pixels=LIMIT), max_pixels=LIMIT)
    expected = np.asarray(upright.resize((8, 8), Image.Resampling.NEAREST))
    assert np.array_equal(decode_mask_square(encoded(upright), 8, image=image), expected)


@pytest.mark.parametrize("call", ["open", "load", "getexif"])
def test_inspect__a_lack_of_memory_says_nothing_of_the_picture(monkeypatch, call):
    """Refused, it would be left out of the data, and what is prepared would depend on the memory that was free."""

    def fail(*arguments, **options):
        raise MemoryError

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    monkeypatch.setattr(Image if call == "open" else PngImagePlugin.PngImageFile, call, fail)
    with pytest.raises(MemoryError):
        inspect(buffer.getvalue(), max_pixels=1000)
