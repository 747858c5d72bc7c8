"""A picture of the first screen of a run's report, made by headless Chromium.

    python tools/report_picture.py RUN/report.html docs/images/report.png
    python tools/report_picture.py RUN/report.html phone.png --width 390 --height 844

The picture of the README is that of `quantspectrum demo`. Needs a Chromium binary on the path.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

# In a frame, as a window cannot be made as narrow as a phone, and has bars of its own.
FRAME = """<!doctype html><meta charset="utf-8">
<style>* {{ margin: 0; border: 0 }}</style>
<iframe src="{page}" style="width:{width}px;height:{height}px;display:block"></iframe>"""

NAMES = ("chromium", "chromium-browser", "google-chrome")

MARGIN = 200
"""Pixels by which the window exceeds the frame."""


def take(page: Path, out: Path, *, width: int, height: int) -> None:
    """Write the page's first `width` x `height` pixels as a PNG."""
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        raise SystemExit("no Chromium on the path (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as work:
        frame, shot = Path(work) / "frame.html", Path(work) / "shot.png"
        frame.write_text(FRAME.format(page=page.resolve().as_uri(), width=width, height=height))
        window = f"--window-size={max(width, 600) + MARGIN},{height + MARGIN}"
        flags = [
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--hide-scrollbars", "--allow-file-access-from-files", window),
            *(f"--user-data-dir={work}/profile", "--virtual-time-budget=10000"),
            f"--screenshot={shot}",
        ]
        subprocess.run(
            [chromium, *flags, frame.as_uri()], check=True, capture_output=True, timeout=240
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(shot) as whole:
            first = whole.convert("RGB").crop((0, 0, width, height))
        first.save(out, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("page", type=Path, help="report.html of a run")
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--height", type=int, default=860)
    args = parser.parse_args()
    take(args.page, args.out, width=args.width, height=args.height)


if __name__ == "__main__":
    main()
