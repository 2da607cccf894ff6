"""How many bytes a text takes as it is, and compressed by the usual tools: what a wire is compared with."""

from __future__ import annotations

import zlib

from ...errors import BadInput


def text_bytes(text: str) -> dict[str, int]:
    """Bytes of `text` in UTF-8 (`utf8`), and of that compressed by zlib at level 9 and zstd at level 19."""
    import pyarrow as pa

    try:
        plain = text.encode("utf-8")
    except UnicodeEncodeError as error:
        fix = "Give text that can be written as UTF-8."
        raise BadInput("text", text[error.start : error.end], fix, why="half of a surrogate pair") from error
    if not pa.Codec.is_available("zstd"):
        fix = "Install the pyarrow of PyPI or conda-forge: pip install --force-reinstall pyarrow."
        raise BadInput("text_bytes", "zstd", fix, why="this pyarrow was built without it")
    zstd = pa.Codec("zstd", compression_level=19).compress(plain, asbytes=True)
    return {"utf8": len(plain), "zlib": len(zlib.compress(plain, 9)), "zstd": len(zstd)}
