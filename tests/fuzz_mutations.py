"""How the fuzzer mutates bytes and trees of plain values."""

import copy
import math
import random
from collections.abc import Iterator
from typing import Any

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, -7, 0.5, -0.5, 1.5, 1e-300, 1e300, 10**9, 10**12),
    *(-(10**9), 2**31, 2**53, 2**63, 2**64, 10**30, -(10**30), 10**400),
    *(math.nan, math.inf, -math.inf),
    *("", " ", "0", "-1", "1e3", "nan", "inf", "null", "none", "true", "yes", "~", "a", "."),
    *("..", "/", "../../../etc/passwd", "/etc/passwd", "/dev/null", "/proc/self/mem", "~root"),
    *(
        "http://127.0.0.1:9/x",
        "s3://a/b",
        "file:///etc/passwd",
        "-",
        "--help",
        "*",
        "%s%n",
        "${HOME}",
    ),
    *("os.system", "builtins.eval", "torch.load", "lit_hier.cli.main", "torch.nn.Linear"),
    *("RHMDataModule", "BPDenoiser", "EpsilonNoise", "diffusers.DDIMScheduler", "ImageFiles"),
    *("ünïcödé", "\u202e\u200b", "\x00", "\x1b[31mred", "two\nlines", "tab\there", "\ud7ff", "😀"),
    *("x" * 300, "x" * 100_000, "[" * 50, "{" * 50, "[1, 2", "{a: 1}", "a: b: c", "!!python/none"),
    *([], {}, [None], [0], [1, 2, 3], ["a", 1, None], [[]], [[[[]]]], [math.nan], [10**30]),
    *({"a": 1}, {"class_path": "os.system"}, {"class_path": None}, {"class_path": []}, {"": ""}),
    *({"init_args": {}}, {"init_args": None}, {"class_path": "torch.nn.Linear", "init_args": 3}),
    *({"class_path": "ImageFiles", "init_args": {"root": "."}}, {"dict_kwargs": {"x": 1}}),
    *({1: 2}, {None: None}, list(range(2000)), {f"k{i}": i for i in range(500)}),
)


MUTATIONS = (*["odd"] * 4, "delete", "rename", "swap", "wrap", "near", "deep", "grow")
BYTE_MUTATIONS = (*["flip"] * 2, "truncate", "splice", "duplicate", "zero", "random", "insert")
BYTE_MUTATIONS += ("remove", "other", "digits")


def paths(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every value of a tree of dicts and lists."""
    yield path
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from paths(value, (*path, key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from paths(value, (*path, number))


def value_at(tree: Any, path: tuple[Any, ...]) -> Any:
    """Return the value at a path."""
    for key in path:
        tree = tree[key]
    return tree


def _deep(levels: int) -> Any:
    tree: Any = 1
    for _ in range(levels):
        tree = [tree]
    return tree


def mutate_tree(rng: random.Random, tree: Any, number: int | None = None) -> Any:
    """Return a copy of a tree of plain values, mutated at some paths, by default one to three."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3)) if number is None else number):
        path = rng.choice(list(paths(tree)))
        if not path:
            if rng.random() < 0.9:
                continue
            return copy.deepcopy(rng.choice(ODD))
        parent, key = value_at(tree, path[:-1]), path[-1]
        value = parent[key]
        kind = rng.choice(MUTATIONS)
        if kind == "delete":
            del parent[key]
        elif kind == "rename" and isinstance(parent, dict):
            known = (str(key)[:-1], f"{key}s", f"{key}+", str(key).upper(), f"{key}.init_args")
            odd = rng.choice((*known, "", "class_path", "a.b", "x" * 200, 3, None, "\x1b", "a\nb"))
            parent[odd] = parent.pop(key)
        elif kind == "swap":
            parent[key] = copy.deepcopy(value_at(tree, rng.choice(list(paths(tree)))))
        elif kind == "wrap":
            parent[key] = rng.choice(([value], {"a": value}, [value] * 3, {"class_path": value}))
        elif kind == "near" and isinstance(value, int | float):
            steps = (-1, 1, 0.5, -2 * value, 10 * value, 1000 * value, str(value), float(value))
            step = rng.choice(steps)
            parent[key] = step if isinstance(step, str) else value + step
        elif kind == "near" and isinstance(value, str) and value:
            position = rng.randrange(len(value))
            parent[key] = (
                value[:position] + rng.choice(("", "x", ".", "/", "\n")) + value[position + 1 :]
            )
        elif kind == "deep":
            parent[key] = _deep(rng.choice((5, 45, 60, 200)))
        elif kind == "grow" and isinstance(parent, list):
            parent.extend(copy.deepcopy(parent))
        else:
            parent[key] = copy.deepcopy(rng.choice(ODD))
    return tree


OTHERS: tuple[bytes, ...] = (
    b"",
    b"\0" * 64,
    b"PK\x03\x04" + b"\0" * 40,
    b"\x80\x02}q\x00.",
    b"cos\nsystem\n(S'touch EXECUTED'\ntR.",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xff\xff\xff\xff\xff\xff\xff\x08\x02\0\0\0\0\0\0\0",
    b"\x89HDF\r\n\x1a\n",
    b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    b"<html>not found</html>",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
    b"{}", b"[]", b"null", b'{"a": ', b"NaN", b"1e999", b"\xff\xfe\x00a", "ü\n".encode("latin-1"),
    b"[" * 20_000,
    b'{"a":' * 20_000,
    b"a: &a [x, x]\nb: &b [*a, *a]\nc: *b\n",
    b"!!python/object/apply:os.system ['touch EXECUTED']\n",
)  # fmt: skip


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Mutate bytes in one way, or in several."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        kind, size = rng.choice(BYTE_MUTATIONS), len(data)
        if kind == "other" or not size:
            data = rng.choice(OTHERS)
            continue
        # A header has more effect than what follows it.
        start = rng.randrange(min(size, 200)) if rng.random() < 0.5 else rng.randrange(size)
        end = min(size, start + rng.choice((1, 2, 4, 16, 200, size)))
        if kind == "truncate":
            data = data[:start]
        elif kind == "flip":
            changed = bytearray(data)
            for _ in range(rng.choice((1, 1, 3, 20))):
                position = rng.randrange(start, size)
                changed[position] ^= 1 << rng.randrange(8)
            data = bytes(changed)
        elif kind == "splice":
            other = rng.randrange(size)
            data = data[:start] + data[other : other + end - start] + data[end:]
        elif kind == "duplicate":
            data = data[:end] + data[start:]
        elif kind == "zero":
            data = data[:start] + b"\0" * (end - start) + data[end:]
        elif kind == "random":
            data = data[:start] + rng.randbytes(end - start) + data[end:]
        elif kind == "insert":
            data = data[:start] + rng.randbytes(rng.choice((1, 4, 100))) + data[start:]
        elif kind == "remove":
            data = data[:start] + data[end:]
        else:
            numbers = (b"0", b"-1", b"99999999999", b"1e99", b"NaN")
            spots = [
                position for position, byte in enumerate(data[:10_000]) if chr(byte).isdigit()
            ]
            if spots:
                position = rng.choice(spots)
                data = data[:position] + rng.choice(numbers) + data[position + 1 :]
    return data
