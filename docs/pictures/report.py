"""The page of bilevel-report, as a browser shows it: docs/tutorial.md and docs/gallery.md.

Needs Chromium and playwright, as tests/report/test_browser.py does.
"""

import subprocess
import sys

import look
from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1000, 900


def draw() -> None:
    folder = look.sweep(
        *("report", "task=reweight", "method=reverse,iaptt,none", "seed=0,1,2"),
        *("outer_steps=60", "log_every=5", "eval_every=5"),
    )
    page, seen = look.RUNS / "report.html", look.RUNS / "report.png"
    report = [sys.executable, "-m", "bilevel_cli.commands.report", str(folder)]
    subprocess.run([*report, "--html", str(page)], check=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        shown.goto(page.as_uri())
        shown.wait_for_timeout(1500)  # curves are drawn by a script of the page
        shown.screenshot(path=seen)
        browser.close()
    path = look.HERE / "report.png"
    Image.open(seen).convert("RGB").quantize(look.COLOURS).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    draw()
