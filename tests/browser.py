"""Checking a page in a real browser, on a screen of some width.

Headless Chromium loads a page that holds the one to check in a frame as wide as the screen. The
findings, which are written into the document, and the console are read from outside.
"""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no browser: on Debian, apt-get install chromium (as root)"
)

# The frame's load event waits for its pictures, and that of the document for the frame.
_FRAME = """<!DOCTYPE html>
<title>check</title>
<pre id="findings"></pre>
<script>
function look(page) {
  const root = page.documentElement, problems = [];
  for (const [number, image] of [...page.images].entries()) {
    const size = image.getBoundingClientRect();
    if (!image.naturalWidth) problems.push(`picture ${number} is missing`);
    else if (size.width < 16 || size.height < 16) problems.push(`picture ${number} is not shown`);
    if (!image.alt) problems.push(`picture ${number} has no alternative text`);
  }
  if (root.scrollWidth > root.clientWidth)
    problems.push(`${root.scrollWidth} pixels wide on a screen of ${root.clientWidth}`);
  const found = {problems, pictures: page.images.length, width: root.clientWidth};
  document.getElementById("findings").textContent = JSON.stringify(found);
}
</script>
<iframe style="width: WIDTHpx; height: 800px; border: 0" srcdoc="PAGE"
  onload="look(this.contentDocument)"></iframe>
"""


def look(page: str, folder: Path, *, width: int = 360) -> dict:
    """Return the problems, the number of pictures, and the width of the screen in pixels.

    Args:
        page: the HTML document.
        folder: a folder for the browser's files.
        width: the width of the screen, in pixels.
    """
    path = folder / "check.html"
    frame = _FRAME.replace("WIDTH", str(width)).replace("PAGE", html.escape(page))
    path.write_text(frame, encoding="utf-8")
    run = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            f"--user-data-dir={folder / 'profile'}",
            "--hide-scrollbars",
            "--window-size=1400,900",
            "--enable-logging=stderr",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    written = re.search(r'<pre id="findings">(.+?)</pre>', run.stdout, re.DOTALL)
    assert written, f"the browser did not finish: {run.stderr[-2000:]}"
    found = json.loads(html.unescape(written[1]))
    found["problems"] += [
        "console: " + line.partition("CONSOLE")[2]
        for line in run.stderr.splitlines()
        if "CONSOLE" in line
    ]
    return found
