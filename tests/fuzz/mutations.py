"""Ways to damage a file: bytes of any, and values of formats that checksums would protect."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Mutation = Callable[[bytes, random.Random], bytes]

_WORDS = (0, 1, 2, 3, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
_TOKENS = (
    "-1", "0", "1", "1e308", "-1e308", "1e999", "nan", "inf", "-inf", "9" * 400, "", " ", "null",
    "true", "[]", "{}", '"x"', "<script>alert(1)</script>", "../../../etc/passwd", "\x00", "ü",
    "2026-11-27", "!!python/object/apply:os.system [id]", "&a [*a]", "[" * 3000, "2000000000",
    "1e18", "3.5",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 1e308, -5.5, "", "x", "<script>", "../../x", [], {}, [1],
    ["a"], {"a": "b"}, [[[]]], "9" * 3000,
)  # fmt: skip


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Change, drop, repeat or insert some bytes."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        if not data:
            return chance.randbytes(chance.randrange(200))
        place = chance.randrange(len(data))
        if chance.random() < 0.5:  # headers are where lengths are
            place = chance.randrange(min(len(data), 256))
        kind = chance.randrange(8)
        if kind == 0:
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[place] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
        elif kind == 2:
            word = struct.pack(chance.choice("<>") + "I", chance.choice(_WORDS))
            data[place : place + 4] = word
        elif kind == 3:
            del data[place:]
        elif kind == 4:
            del data[place : place + chance.randrange(1, 64)]
        elif kind == 5:
            piece = data[place : place + chance.randrange(1, 64)]
            where = chance.randrange(len(data) + 1)
            data[where:where] = piece
        elif kind == 6:
            data[place:place] = chance.randbytes(chance.randrange(1, 32))
        else:
            data[place : place + 64] = bytes(min(64, len(data) - place))
    return bytes(data)


def text(content: bytes, chance: random.Random) -> bytes:
    """Replace words, numbers, cells or lines."""
    if chance.random() < 0.3:
        return damaged(content, chance)
    lines = content.decode("utf-8", "replace").split("\n")
    for _ in range(chance.choice((1, 1, 3))):
        row = chance.randrange(len(lines))
        kind = chance.randrange(5)
        if kind == 0:
            del lines[row]
            lines = lines or [""]
        elif kind == 1:
            lines.insert(row, lines[chance.randrange(len(lines))])
        else:
            between = "," if "," in lines[row] else " "
            cells = lines[row].split(between)
            cells[chance.randrange(len(cells))] = chance.choice(_TOKENS)
            lines[row] = between.join(cells)
    return "\n".join(lines).encode()


def json_values(content: bytes, chance: random.Random) -> bytes:
    """Replace, drop or rename values of a JSON file."""
    if chance.random() < 0.3:
        return text(content, chance)
    value = json.loads(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        value = _changed(value, chance)
    found = json.dumps(value)
    if chance.random() < 0.05:
        found = found.replace('"x"', chance.choice(("NaN", "1e999", "[" * 5000)), 1)
    return found.encode()


def _changed(value: Any, chance: random.Random) -> Any:
    if chance.random() < 0.05 or not isinstance(value, (dict, list)) or not value:
        return chance.choice(_VALUES)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = chance.choice(list(keys))
    value = list(value) if isinstance(value, list) else dict(value)
    kind = chance.random()
    if kind < 0.1:
        del value[key]
    elif kind < 0.15 and isinstance(value, dict):
        value[f"{key}x"] = value.pop(key)
    elif kind < 0.2 and isinstance(value, list):
        value.append(value[key])
    else:
        value[key] = _changed(value[key], chance)
    return value


def arrays(content: bytes, chance: random.Random) -> bytes:
    """Replace arrays of a ``.npz``, with headers that lie and checksums that are right."""
    if chance.random() < 0.4:
        return damaged(content, chance)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    name = chance.choice(sorted(members))
    kind = chance.randrange(4)
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[name] = damaged(members[name], chance)
    else:
        members[name] = _other_array(members[name], chance)
    method = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for other, data in members.items():
            archive.writestr(other, data)
    return file.getvalue()


def _other_array(content: bytes, chance: random.Random) -> bytes:
    try:
        values = np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError:
        return damaged(content, chance)
    kind = chance.randrange(7)
    file = io.BytesIO()
    if kind == 0 and values.dtype.kind == "f" and values.size:
        values = values.copy()
        values.flat[chance.randrange(values.size)] = chance.choice((np.nan, np.inf, 1e308, -9))
    elif kind == 1:
        values = np.ones(values.shape, chance.choice(("S3", "U2", "c8", "?", "f2", "i1", "<M8[s]")))
    elif kind == 2:
        values = values.reshape(-1)[: chance.randrange(values.size + 1)]
    elif kind == 3:
        values = values[None]
    elif kind == 4 and values.dtype.kind in "iu" and values.size:
        values = values.copy()
        values.flat[chance.randrange(values.size)] = chance.choice((0, 1, 100, 127))
    else:
        shape = [2 ** chance.choice((0, 10, 33, 62)) for _ in range(chance.randrange(4))]
        shape = shape if kind == 5 else [-1]
        description = chance.choice((values.dtype.str, "|O", "<f8", "|S999999999", "|V0"))
        header = {"descr": description, "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(file, header)
        return file.getvalue() + values.tobytes()
    np.save(file, values)
    return file.getvalue()


def png(content: bytes, chance: random.Random) -> bytes:
    """Damage chunks of a PNG and mend their checksums."""
    if chance.random() < 0.3:
        return damaged(content, chance)
    chunks, first = [], 8
    while first + 8 <= len(content):
        size = int.from_bytes(content[first : first + 4], "big")
        chunks.append((content[first + 4 : first + 8], content[first + 8 : first + 8 + size]))
        first += 12 + size
    kind = chance.randrange(5)
    place = chance.randrange(len(chunks))
    name, data = chunks[place]
    if kind == 0:
        extra = chance.choice((b"tEXt", b"zTXt", b"iTXt", b"acTL", b"fcTL", b"PLTE", b"tRNS"))
        chunks.insert(place, (extra, chance.randbytes(chance.randrange(40))))
    elif kind == 1:
        chunks.insert(place, (b"zTXt", b"a\0\0" + zlib.compress(bytes(2_000_000))))
    elif kind == 2:
        del chunks[place]
    else:
        chunks[place] = (name, damaged(data, chance))
    packed = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    ]
    return content[:8] + b"".join(packed)


def gzipped(inner: Mutation) -> Mutation:
    """Return a mutation of what a ``.gz`` holds, packed again."""
    import gzip

    def mutate(content: bytes, chance: random.Random) -> bytes:
        if chance.random() < 0.4:
            return damaged(content, chance)
        if chance.random() < 0.05:
            return gzip.compress(content[:16] + bytes(300_000_000), 1)
        return gzip.compress(inner(gzip.decompress(content), chance), 1, mtime=0)

    return mutate


def zipped(inner: Mutation) -> Mutation:
    """Return a mutation of what one member of a zip holds, packed again, or of the members."""
    import io
    import zipfile

    def mutate(content: bytes, chance: random.Random) -> bytes:
        if chance.random() < 0.4:
            return damaged(content, chance)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
        which = chance.randrange(len(members))
        name, value = members[which]
        kind = chance.random()
        if kind < 0.05:
            members[which] = name, bytes(300_000_000)
        elif kind < 0.1:
            members.append((f"../../{name}", value))
        elif kind < 0.15:
            del members[which]
        else:
            members[which] = name, inner(value, chance)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, value in members:
                archive.writestr(name, value)
        return packed.getvalue()

    return mutate


def checkpoint(content: bytes, chance: random.Random) -> bytes:
    """Replace entries of a checkpoint, or damage it."""
    if chance.random() < 0.5:
        return damaged(content, chance)
    saved = _loaded(content)
    kind = chance.randrange(3)
    if kind == 0:
        saved["state_dict"] = _other_weights(saved["state_dict"], chance)
    elif kind == 1:
        saved[chance.choice(sorted(saved))] = chance.choice(_VALUES)
    else:
        saved = _changed(saved, chance)
    return _saved(saved)


def weights(content: bytes, chance: random.Random) -> bytes:
    """Replace entries of a state dict, or damage the file."""
    if chance.random() < 0.5:
        return damaged(content, chance)
    return _saved(_other_weights(_loaded(content), chance))


def _other_weights(named: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    name = chance.choice(sorted(named))
    value = named[name]
    other = (
        value * float("nan"), value[None], value.half(), torch.zeros(1).expand(10**12),
        torch.ones(2, 2).to_sparse(), 1, None, [],
    )  # fmt: skip
    return {**named, name: chance.choice(other)}


def _loaded(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), weights_only=True)


def _saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()
