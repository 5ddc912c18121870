"""Image files that are small and claim to be enormous, made by hand from what the formats say."""

import io
import struct
import zlib

from PIL import Image, features

HUGE = 50_000


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def picture(mode="RGB", size=(64, 48)):
    return Image.new(mode, size)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*extra, size=(8, 8)):
    """A grey PNG of `size` with `extra` chunks before its pixels, which are all there."""
    header = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    rows = (
        zlib.compress(b"\0" * (size[1] * (size[0] + 1))) if size[0] * size[1] < 10**7 else zlib.compress(b"\0" * 1000)
    )
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def zeros(count):
    """That many zero bytes, as zlib packs them."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(b"\0" * min(2**20, count - at)) for at in range(0, count, 2**20)) + packer.flush()


def jpeg_of(size, **options):
    """A JPEG whose header claims `size`."""
    data = bytearray(encoded(picture(), "JPEG", **options))
    start = data.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", size[1], size[0])
    return bytes(data)


def passes(count):
    """A progressive JPEG whose last pass stands in it `count` times."""
    data = encoded(picture(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + (data[last:-2] * count) + data[-2:]


def tiff(tags, body=b"", size=(64, 64)):
    """A little-endian TIFF in grey with more `tags`: number -> (type, count, value or offset from the end of the tags)."""
    own = {256: (4, 1, size[0]), 257: (4, 1, size[1]), 258: (3, 1, 8), 262: (3, 1, 1), 277: (3, 1, 1), **tags}
    end = 8 + 2 + 12 * len(own) + 4
    width = {1: 1, 3: 2, 4: 4, 7: 1}
    entries = b""
    for number, (kind, count, value) in sorted(own.items()):
        inside = width[kind] * count <= 4 and number not in (273, 324)
        entries += struct.pack("<HHII", number, kind, count, value if inside else end + value)
    return struct.pack("<2sHIH", b"II", 42, 8, len(own)) + entries + struct.pack("<I", 0) + body


def tiles(side):
    """A TIFF of 64 x 64 pixels in one tile of `side` x `side`, which is all there, packed."""
    packed = zeros(side * side)
    where = {322: (4, 1, side), 323: (4, 1, side), 324: (4, 1, 0), 325: (4, 1, len(packed)), 259: (3, 1, 8)}
    return tiff(where, packed)


def overlapping_tags(count, size):
    """A TIFF of `count` tags that all have the same `size` bytes as their value."""
    return tiff({40_000 + n: (7, size, 0) for n in range(count)} | {273: (4, 1, 0), 279: (4, 1, 4096)}, b"\0" * size)


def exif_of(count, size):
    """An EXIF block of `count` tags that all have the same `size` bytes as their value."""
    return b"Exif\0\0" + overlapping_tags(count, size)


def gif(frames, screen=(8, 8), frame=(8, 8)):
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    still = encoded(picture("L", (8, 8)), "GIF")
    pixels = still[still.rindex(b",\0\0\0\0") + 10 : -1]
    one = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + pixels
    return head + one * frames + b";"


def webp(frames, canvas):
    """An animated WebP: a canvas, and `frames` times the same small frame."""
    still = encoded(picture(size=(8, 8)), "WEBP", lossless=True)[12:]
    size = struct.pack("<I", canvas[0] - 1)[:3] + struct.pack("<I", canvas[1] - 1)[:3]
    place = b"\0" * 6 + b"\x07\0\0\x07\0\0" + b"\x0a\0\0" + b"\0"
    frame = b"ANMF" + struct.pack("<I", len(place + still)) + place + still
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size
    body += b"ANIM" + struct.pack("<IIH", 6, 0, 0) + frame * frames
    return b"RIFF" + struct.pack("<I", len(body)) + body


def patched(data, mark, at, value):
    """`data` with `value` in place of what stands `at` bytes behind the first `mark`."""
    start = data.index(mark) + at
    return data[:start] + value + data[start + len(value) :]


def bombs():
    """Name -> file."""
    big = struct.pack(">II", HUGE, HUGE)
    text = b"key\0\0" + zeros(2**28)
    found = {
        "png header": png(size=(HUGE, HUGE)),
        "png pixels": png(size=(12_000, 12_000)),
        "png zTXt": png(chunk(b"zTXt", text)),
        "png iTXt": png(chunk(b"iTXt", b"key\0\1\0\0\0" + zeros(2**28))),
        "png iCCP": png(chunk(b"iCCP", text)),
        "png many texts": png(*[chunk(b"zTXt", b"key\0\0" + zeros(2**20 - 1))] * 200),
        "png 100000 frames": png(chunk(b"acTL", struct.pack(">II", 100_000, 0))),
        "png exif": png(chunk(b"eXIf", overlapping_tags(20_000, 2**20))),
        "jpeg header": jpeg_of((65_500, 65_500)),
        "jpeg progressive header": jpeg_of((65_500, 65_500), progressive=True),
        "jpeg passes": passes(5_000),
        "jpeg exif": encoded(picture(), "JPEG", exif=exif_of(1_500, 40_000)),
        "tiff header": tiff({273: (4, 1, 0), 279: (4, 1, 8)}, b"\0" * 8, size=(HUGE, HUGE)),
        "tiff tile": tiles(2**14),
        "tiff tags": overlapping_tags(20_000, 2**20),
        "gif screen": gif(1, screen=(65_535, 65_535)),
        "gif frame": gif(1, frame=(65_535, 65_535)),
        "gif 100000 frames": gif(100_000),
        "webp canvas": webp(1, (2**14, 2**14)),
        "webp below Pillow's limit": webp(1, (13_000, 13_000)),
        "webp 100000 frames": webp(100_000, (8, 8)),
        "bmp header": patched(encoded(picture(), "BMP"), b"BM", 18, struct.pack("<ii", HUGE, HUGE)),
        "ppm header": b"P6 %d %d 255\n" % (HUGE, HUGE) + b"\0" * 100,
    }
    if features.check("jpg_2000"):
        data = encoded(picture(), "JPEG2000")
        found["jpeg 2000 header"] = patched(patched(data, b"ihdr", 4, big), b"\xff\x51", 6, big)
    if features.check("avif"):
        found["avif header"] = patched(encoded(picture(), "AVIF"), b"ispe", 8, struct.pack(">II", 16_000, 16_000))
    return found
