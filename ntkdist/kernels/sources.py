"""The sources that compiled code is made of: caches on disk are valid for one version of them."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path


def sources() -> list[Path]:
    """Return every source file of ``ntkdist.kernels``; compiled code depends on some of them."""
    return sorted(Path(__file__).parent.rglob("*.py"))


@lru_cache(maxsize=1)
def sources_digest() -> str:
    """Return the SHA-256 digest of ``sources`` as they were when first asked."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()
