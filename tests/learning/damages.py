"""Sound artifacts of every shape, and a thousand ways to damage them, drawn from a seed."""

import hashlib
import json
import random
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from learning.adaptation import adapt
from learning.artifact import dump_learner, dump_meta_learner, load_learner, load_meta_learner
from learning.config import STRATEGIES
from learning.encoders.tabular import QuantileFeaturiser
from learning.envelope import FORMAT_VERSION, UNSEALED_VERSION, read_header, seal, unseal
from learning.types import Domain, Task, labelled_set
from learning.types import Table as Rows
from tests.learning.problems import blobs, quick_meta_learner, run, slopes, sources

N_CASES = 1_000

Load = Callable[[bytes], object]
Case = tuple[str, bytes]


def table(task: Task) -> bytes:
    """Of twenty rows with a number, a gap and a category: the featuriser is a stack with kernel and forest."""
    draw = np.random.default_rng(0)
    sizes = draw.normal(size=20)
    sizes[3] = np.nan
    colours = np.array(["red", "blue"] * 10, dtype=object)
    labels: Any = ["a", "b"] * 10 if task == "classification" else (draw.normal(size=20) + np.arange(20)).tolist()
    rows = Rows(numeric={"size": sizes}, categorical={"colour": colours})
    adaptation = adapt(
        target=Domain(name="t", data=labelled_set(rows, labels, task)), sources=[], featuriser=QuantileFeaturiser(),
        modality="tabular", encoder="table", encoder_revision="", columns={"size": "numeric", "colour": "categorical"},
        strategy="target_only", options=STRATEGIES["target_only"](), meta_learner=None, seed=0,
        progress=lambda _fraction, _phase: None,
    )  # fmt: skip
    return dump_learner(adaptation.learner)


@cache
def artifacts() -> dict[str, tuple[bytes, Load]]:
    """Sound ones of every shape, with what loads them."""
    return {
        "classifier": (dump_learner(run("target_only", blobs(7, 4)).learner), load_learner),
        "regression": (dump_learner(run("target_only", slopes(7, 20)).learner), load_learner),
        "metric": (dump_learner(run("metric", blobs(7, 4), using=sources()).learner), load_learner),
        "table": (table("classification"), load_learner),
        "table regression": (table("regression"), load_learner),
        "meta-learner": (dump_meta_learner(quick_meta_learner(steps=1)), load_meta_learner),
    }


NAMES = ("classifier", "regression", "metric", "table", "table regression", "meta-learner")


def resealed(data: bytes, change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> bytes:
    """The artifact with other contents under a seal that fits them."""
    kind = read_header(data)["kind"]
    tensors, header = unseal(data, kind)
    change(tensors, header)
    return seal(kind, tensors, header)


def sealed_anew(data: bytes) -> bytes:
    """The file as it is under a seal that fits it."""
    blank = data.replace(read_header(data)["seal"].encode(), b"0" * 64)
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode())


def unsealed(data: bytes) -> bytes:
    """As it was written before there were seals."""
    tensors, header = load(data), read_header(data)
    del header["seal"]
    return save(tensors, metadata={"metagraft": json.dumps(header | {"format_version": UNSEALED_VERSION})})


# What happens to files: each gets the bytes and a generator.


def flip_bits(data: bytes, draw: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 5])):
        damaged[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def flip_header_bits(data: bytes, draw: random.Random) -> bytes:
    damaged = bytearray(data)
    damaged[draw.randrange(8 + int.from_bytes(data[:8], "little"))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def truncate(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def lengthen(data: bytes, draw: random.Random) -> bytes:
    return data + draw.randbytes(draw.randrange(1, 100))


def overwrite(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data) - 16)
    return data[:start] + draw.randbytes(16) + data[start + 16 :]


def lie_about_the_length(data: bytes, draw: random.Random) -> bytes:
    length = draw.choice([0, 1, len(data), 2**31, 2**40, 2**63, 2**64 - 1, draw.randrange(2**64)])
    return struct.pack("<Q", length) + data[8:]


def lie_about_a_tensor(data: bytes, draw: random.Random) -> bytes:
    """Its place or its shape: beyond the file, overlapping, negative, or far too large."""
    length = int.from_bytes(data[:8], "little")
    outer = json.loads(data[8 : 8 + length])
    entry = outer[draw.choice([name for name in outer if name != "__metadata__"])]
    before = dict(entry)
    huge = draw.choice([2**31, 2**40, 2**62, 2**63 - 1, -1])
    match draw.randrange(3):
        case 0:
            entry["shape"] = [huge] * draw.randrange(1, 4)
        case 1:
            entry["data_offsets"] = [0, abs(huge)]
        case _:
            entry["shape"] = [0, abs(huge)]
    text = json.dumps(outer).encode()
    return data if entry == before else sealed_anew(struct.pack("<Q", len(text)) + text + data[8 + length :])


def nest_deeply(data: bytes, draw: random.Random) -> bytes:
    depth = draw.choice([200, 5_000, 100_000])
    value = draw.choice(["[", '{"a":']) * depth
    inner = json.dumps(f'{{"format_version": {FORMAT_VERSION}, "kind": "base_learner", "x": {value}')
    text = draw.choice([value, f'{{"__metadata__": {{"metagraft": {inner}}}}}', f'{{"__metadata__": {value}'])
    return struct.pack("<Q", len(text)) + text.encode() + data[8:]


def swap_tensors(data: bytes, draw: random.Random) -> bytes:
    """Two tensors change places under the old seal."""
    tensors, header = load(data), read_header(data)
    first, second = draw.sample(sorted(tensors), 2)
    tensors[first], tensors[second] = tensors[second], tensors[first]
    return save(tensors, metadata={"metagraft": json.dumps(header, sort_keys=True)})


def change_a_number(data: bytes, draw: random.Random) -> bytes:
    """One number of one tensor, or NaN or infinity, under the old seal."""
    tensors, header = {name: tensor.clone() for name, tensor in load(data).items()}, read_header(data)
    name = draw.choice([name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()])
    tensors[name].view(-1)[draw.randrange(tensors[name].numel())] = draw.choice([1e-3, 7.0, float("nan"), float("inf")])
    return save(tensors, metadata={"metagraft": json.dumps(header, sort_keys=True)})


# What somebody could have sealed anew.


def drop_a_tensor(data: bytes, draw: random.Random) -> bytes:
    return resealed(data, lambda tensors, _: void(tensors.pop(draw.choice(sorted(tensors)))))


def add_a_tensor(data: bytes, draw: random.Random) -> bytes:
    """Of a name that there is none of, or that belongs to another kind, or to a part that this one lacks."""
    name = draw.choice(["head.more", "extra", "graft.x", "embedding.more", "parameters.more", "source_graft_9.x"])
    tensor = torch.ones(3, dtype=torch.float16 if "graft" in name else torch.float32)
    return resealed(data, lambda tensors, _: tensors.update({name: tensor}))


def change_a_type(data: bytes, draw: random.Random) -> bytes:
    def change(tensors: dict[str, Tensor], _: dict[str, Any]) -> None:
        name = draw.choice(sorted(tensors))
        others = [
            kind for kind in (torch.float64, torch.bfloat16, torch.int8, torch.bool) if kind != tensors[name].dtype
        ]
        tensors[name] = tensors[name].to(draw.choice(others))

    return resealed(data, change)


def change_a_shape(data: bytes, draw: random.Random) -> bytes:
    def change(tensors: dict[str, Tensor], _: dict[str, Any]) -> None:
        name = draw.choice(sorted(tensors))
        tensor = tensors[name]
        tensors[name] = draw.choice([tensor[None], torch.cat([tensor.reshape(-1), tensor.new_ones(1)])])

    return resealed(data, change)


def drop_a_word(data: bytes, draw: random.Random) -> bytes:
    return resealed(data, lambda _, header: void(header.pop(draw.choice(sorted(header)))))


def change_a_word(data: bytes, draw: random.Random) -> bytes:
    wrong: Any = draw.choice([None, [], {}, "?", -1, True, 10**400, [[]], {"a": {"b": []}}])
    free = {"encoder", "encoder_revision", "strategy", "card"}  # any text will do there

    def change(_: dict[str, Tensor], header: dict[str, Any]) -> None:
        harmless = free | ({"interval_half_width"} if wrong is None else {"columns"} if wrong == {} else set())
        name = draw.choice([name for name, value in sorted(header.items()) if value != wrong and name not in harmless])
        header[name] = wrong

    return resealed(data, change)


#: Numbers of the header that no learner has.
IMPOSSIBLE = [
    ("temperature", 0.0), ("temperature", -1.0), ("set_threshold", -0.5), ("set_threshold", 2.0), ("coverage", 0.0),
    ("coverage", 1.0), ("interval_half_width", -1.0), ("familiarity", {"typical": -1.0, "spread": 1.0}),
    ("familiarity", {"typical": 1.0, "spread": 0.0}),
]  # fmt: skip


def leave_the_range(data: bytes, draw: random.Random) -> bytes:
    def change(_: dict[str, Tensor], header: dict[str, Any]) -> None:
        name, value = draw.choice(IMPOSSIBLE)
        if "temperature" in header:
            header[name] = value
        else:
            header["featuriser"]["state"]["scale"] = draw.choice([0.0, -1.0])

    return resealed(data, change)


def void(_value: object) -> None: ...


def is_another_kind(data: bytes, draw: random.Random) -> bytes:
    kind = read_header(data)["kind"]
    return draw.choice([other for other, _ in artifacts().values() if read_header(other)["kind"] != kind])


def is_another_format(data: bytes, draw: random.Random) -> bytes:
    tensors, header = load(data), read_header(data)
    header["format_version"] = draw.choice([0, 1, UNSEALED_VERSION, 4, 99, None, "3", [3], True])
    return save(tensors, metadata={"metagraft": json.dumps(header, sort_keys=True)})


def is_no_artifact(data: bytes, draw: random.Random) -> bytes:
    return draw.choice([b"", b"\x80\x04\x95" + draw.randbytes(50), b"PK\x03\x04" + data, save({"a": torch.ones(2)}),
                        struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 4) + b"null", draw.randbytes(500)])  # fmt: skip


DAMAGES = (
    flip_bits, flip_header_bits, truncate, lengthen, overwrite, lie_about_the_length, lie_about_a_tensor, nest_deeply,
    swap_tensors, change_a_number, drop_a_tensor, add_a_tensor, change_a_type, change_a_shape, drop_a_word,
    change_a_word, leave_the_range, is_another_kind, is_another_format, is_no_artifact,
)  # fmt: skip


def cases(name: str) -> list[Case]:
    """Its share of the thousand: every kind of damage in turn, drawn from a seed."""
    data, _ = artifacts()[name]
    draw = random.Random(name)
    found: list[Case] = []
    while len(found) < -(-N_CASES // len(NAMES)):
        damage = DAMAGES[len(found) % len(DAMAGES)]
        damaged = damage(data, draw)
        if damaged != data:  # a written number may be what stood there
            found.append((damage.__name__, damaged))
    return found
