"""Screenshots: pages that the tutorial's commands wrote become docs/pages/*.png.

python docs/screenshots.py FOLDER    where FOLDER is that of `python docs/console.py your-own-photos.md FOLDER`
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PAGES = {  # image → page, and the height of what is shown of it, in pixels
    "report.png": ("runs/garments/report.html", 970),
    "interpret.png": ("why/interpret.html", 710),
    "gallery.png": ("gallery.html", 620),
}
WIDTH = 1280


def screenshot(page: Path, image: Path, height: int) -> None:
    """The top of a page, in a palette of 128 colors: a third of the bytes."""
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder, "full.png")
        look = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={WIDTH},{height}")
        command = ["chromium", *look, f"--screenshot={full}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        Image.open(full).convert("RGB").quantize(128).save(image, optimize=True)


if __name__ == "__main__":
    target = Path(__file__).parent / "pages"
    target.mkdir(exist_ok=True)
    for name, (page, height) in PAGES.items():
        screenshot(Path(sys.argv[1], page), target / name, height)
        print(target / name)
