"""Fills the scratch folder of a child, its working directory."""

import os

from cir_env.sandbox import wire


def write_files(data: bytes) -> None:
    """Write the files of a block, read-only; `data` is what `wire.pack_files` returned.

    A block owns its copies and can replace them.
    """
    for name, content in wire.read_files(data).items():
        with open(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444), "wb") as file:
            file.write(content)
