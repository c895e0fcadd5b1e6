"""An episode for human eyes: printed as it grows, or drawn as an image."""

import sys
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cir_env.episode.state import Episode

COLUMNS: Final = 80
LINES: Final = 30
_SCALE: Final = 2

# Escape control characters so that program output cannot drive the viewer's terminal.
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in b"\t\n"}


def print_unprinted(episode: Episode) -> None:
    """Print the part of an episode that was not printed yet."""
    text = episode.transcript + episode.outcome
    unprinted = text[episode.printed_chars :].translate(_CONTROLS)
    encoding = sys.stdout.encoding or "utf-8"
    print(unprinted.encode(encoding, "backslashreplace").decode(encoding), end="", flush=True)
    episode.printed_chars = len(text)


def draw(text: str) -> NDArray[np.uint8]:
    """Draw the last 30 lines of a text, wrapped at 80 characters: black on white, in a bitmap font of Latin-1.

    Args:
        text: Any text; other characters are shown as escapes.

    Returns:
        An RGB image of the same shape for any text, (height, width, 3), both even, as video codecs want it.

    Raises:
        ImportError: The library pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise ImportError('render_mode="rgb_array" needs the library pillow: pip install -e ".[render]".') from None
    font = ImageFont.load_default_imagefont()
    _, _, width, height = font.getbbox(" ")
    image = Image.new("L", (COLUMNS * width, LINES * height), "white")
    printable = text.translate(_CONTROLS).expandtabs(4).encode("latin-1", "backslashreplace").decode("latin-1")
    lines = [line[at : at + COLUMNS] for line in printable.split("\n") for at in range(0, len(line) or 1, COLUMNS)]
    for row, line in enumerate(lines[-LINES:]):
        ImageDraw.Draw(image).text((0, row * height), line, fill="black", font=font)
    scaled = image.resize((_SCALE * image.width, _SCALE * image.height), Image.Resampling.NEAREST)
    return np.asarray(scaled.convert("RGB")).copy()
