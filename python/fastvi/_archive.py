"""Archives of PyTorch with a checksum: a zip archive whose comment holds one of all the bytes before it.

``torch.load`` reads such a file as any other, but checks nothing: neither a checksum nor the archive's own CRCs.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Mapping
from typing import Any

import torch

MARK = b"fastvi blake2b "
"""With which the comment begins."""
LENGTH = struct.Struct("<H")
"""Of the comment: the last field of a zip archive before the comment itself."""
_DIGEST_BYTES = 32
COMMENT_BYTES = len(MARK) + 2 * _DIGEST_BYTES


def archive_bytes(content: Mapping[str, Any]) -> bytes:
    """Return the archive of tensors and plain values, with its checksum.

    Examples
    --------
    >>> archive = archive_bytes({"x": torch.zeros(2)})
    >>> has_checksum(archive), is_whole(archive), is_whole(archive.replace(b"fastvi", b"fastVI"))
    (True, True, False)
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    archive = buffer.getvalue()[: -LENGTH.size]  # all but the length of the comment, which was empty
    return archive + LENGTH.pack(COMMENT_BYTES) + _comment(archive)


def has_checksum(content: bytes) -> bool:
    """Return whether the end of a file's content is a checksum, right or wrong."""
    return content[-COMMENT_BYTES:].startswith(MARK)


def is_whole(content: bytes) -> bool:
    """Return whether a file's content is what `archive_bytes` returned, to the bit."""
    archive = content[: -COMMENT_BYTES - LENGTH.size]
    return content[len(archive) :] == LENGTH.pack(COMMENT_BYTES) + _comment(archive)


def _comment(archive: bytes) -> bytes:
    return MARK + hashlib.blake2b(archive, digest_size=_DIGEST_BYTES).hexdigest().encode()
