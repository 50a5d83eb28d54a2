"""Images and tensors that nobody should send, from a seed."""

import io
import struct

import numpy as np
from PIL import Image

SAMPLES = {
    "JPEG": ("RGB", {"quality": 90}),
    "progressive": ("RGB", {"quality": 90, "progressive": True}),
    "grey JPEG": ("L", {}),
    "CMYK": ("CMYK", {}),
    "PNG": ("RGB", {}),
    "palette PNG": ("P", {}),
    "alpha PNG": ("RGBA", {}),
    "16-bit PNG": ("I;16", {}),
    "GIF": ("P", {}),
    "animated GIF": ("P", {"save_all": True}),
    "BMP": ("RGB", {}),
    "palette BMP": ("P", {}),
}


def samples(rng):
    """One good image of each kind: bytes by name."""
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    picture = coarse.resize((90, 70), Image.Resampling.BICUBIC)
    made = {}
    for name, (mode, options) in SAMPLES.items():
        image = picture.convert("L").convert(mode) if mode == "I;16" else picture.convert(mode)
        if "save_all" in options:
            options = {**options, "append_images": [image.rotate(90), image.rotate(180)]}
        buffer = io.BytesIO()
        kind = name.split()[-1]
        image.save(buffer, {"progressive": "JPEG", "CMYK": "JPEG"}.get(kind, kind), **options)
        made[name] = buffer.getvalue()
    return made


def corpus(rng, count):
    """So many damaged images."""
    good = list(samples(rng).values())
    yield b""
    yield rng.bytes(10_000_000)
    yield from (good[i][:3] + rng.bytes(1_000_000) for i in range(len(good)))
    yield from giants()
    while count > 0:
        data = bytearray(good[rng.integers(len(good))])
        match rng.integers(5):
            case 0:  # bits
                for position in rng.integers(0, len(data), rng.integers(1, 20)):
                    data[position] ^= 1 << rng.integers(8)
            case 1:  # bits of the header
                for position in rng.integers(0, min(60, len(data)), rng.integers(1, 6)):
                    data[position] ^= 1 << rng.integers(8)
            case 2:  # truncation
                del data[rng.integers(len(data)) :]
            case 3:  # splice
                other = good[rng.integers(len(good))]
                data[rng.integers(len(data)) :] = other[rng.integers(len(other)) :]
            case 4:  # a large number somewhere in the header
                position = rng.integers(0, min(40, len(data) - 4))
                data[position : position + 4] = b"\xff\xff\xff\xff"
        yield bytes(data)
        count -= 1


def giants():
    """Headers of images that would fill the memory."""
    jpeg = io.BytesIO()
    Image.new("RGB", (16, 16)).save(jpeg, "JPEG")
    data = jpeg.getvalue()
    start = data.index(b"\xff\xc0") + 5  # height and width in the frame's header
    yield data[:start] + struct.pack(">HH", 65500, 65500) + data[start + 4 :]
    png = io.BytesIO()
    Image.new("1", (60_000, 60_000)).save(png, "PNG")  # half a megabyte
    yield png.getvalue()
    wide = io.BytesIO()
    Image.new("1", (40_000_000, 1)).save(wide, "PNG")
    yield wide.getvalue()
    yield b"BM" + struct.pack("<IIIIiiHH", 90, 0, 54, 40, 60_000, -60_000, 1, 24) + bytes(60)
    screen = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + bytes(6)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
    # Codes that stand for ever longer runs: two gigabytes of one colour.
    yield screen + frame + b"\x02" + (b"\xff" + b"\x55" * 255) * 4000 + b"\x00;"
    yield screen + (frame + b"\x02\x02\x4c\x01\x00") * 5000 + b";"


def tensors(rng, wire, count):
    """So many `TensorProto`s: every data type, ranks 0 to 6, odd sizes, cut contents."""
    types = [v for k, v in vars(wire).items() if k.startswith("DT_") and isinstance(v, int)]
    fields = ("float_val", "double_val", "int_val", "int64_val", "bool_val", "string_val")
    for _ in range(count):
        proto = wire.TensorProto(dtype=int(rng.choice(types)))
        for _ in range(rng.integers(0, 7)):
            small = int(rng.choice([0, 1, 1, 2, 3, 3, 8, 40]))
            odd = int(rng.choice([-1, -7, 2**31, 2**40, 70_000]))
            proto.tensor_shape.dim.add(size=odd if rng.random() < 0.08 else small)
        if rng.random() < 0.05:
            proto.tensor_shape.unknown_rank = True
        kind = rng.integers(4)
        if kind == 0:
            proto.tensor_content = rng.bytes(int(rng.choice([0, 1, 7, 64, 1000])))
        elif kind == 1:
            size = int(np.prod([max(0, min(d.size, 100)) for d in proto.tensor_shape.dim]))
            proto.tensor_content = rng.bytes(min(size * int(rng.choice([1, 2, 4, 8])), 10**6))
        elif kind == 2:
            field = str(rng.choice(fields))
            values = [float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 300.0]
            if field == "string_val":
                values = [b"", b"\xff\xd8\xff", rng.bytes(50)]
            elif not field.startswith(("float", "double")):
                values = [-1, 0, 1, 300]
            if field == "bool_val":
                values = [True, False]
            values = [values[i] for i in rng.integers(0, len(values), rng.integers(0, 20))]
            getattr(proto, field).extend(values)
        yield proto
