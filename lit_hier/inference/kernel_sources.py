"""The native kernel's sources and the variants that are built from them.

`setup.py` runs this file when the package is built, so it needs the standard library only.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "native"

# Without contraction a multiplication and an addition round twice, as torch's operations do.
FLAGS: Final = ("-std=gnu11", "-O3", "-ffp-contract=off")

# For each variant, its instruction sets: those that torch has found on a machine when it reports
# the capability of that name (`torch.backends.cpu.get_cpu_capability`), and no others.
_AVX2: Final = ("-mavx2", "-mfma")
VARIANTS: Final[Mapping[str, tuple[str, ...]]] = {
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", *_AVX2),
    "avx2": _AVX2,
    "baseline": (),
}


def source_files() -> list[Path]:
    """List the kernel's sources; empty in a package that does not ship them."""
    return sorted(path for path in FOLDER.glob("*") if path.suffix in (".c", ".h"))


def source_digest() -> str | None:
    """SHA-256 of the flags and sources in hexadecimal, or None where there are no sources."""
    files = source_files()
    if not files:
        return None
    digest = hashlib.sha256(repr((FLAGS, sorted(VARIANTS.items()))).encode())
    for path in files:
        content = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{path.name} {len(content)} ".encode() + content)
    return digest.hexdigest()
