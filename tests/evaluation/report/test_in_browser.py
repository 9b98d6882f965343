"""Reports in a real browser: they fit a phone, and nothing fails to draw."""

import html
import json
import re
import shutil
import subprocess

import pytest

from ega_jax.evaluation.report import write_comparison, write_report

from .test_comparison import runs  # noqa: F401
from .test_page import run  # noqa: F401

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PHONE, DESKTOP = 390, 1280
PROBE = """
<script>
addEventListener("load", () => {
  const wide = [...document.querySelectorAll("body *")].filter(
    e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, svg"));
  const small = [...document.querySelectorAll("p, td, th, li, dd, dt, h3")].filter(
    e => e.innerText && parseFloat(getComputedStyle(e).fontSize) < 11);
  const broken = [...document.images].filter(e => !e.naturalWidth);
  const empty = [...document.querySelectorAll("svg")].filter(e => e.getBoundingClientRect().height < 50);
  parent.document.title = JSON.stringify({width: innerWidth, page: document.documentElement.scrollWidth,
    wide: wide.map(e => e.outerHTML.slice(0, 90)), small: small.length, broken: broken.length, empty: empty.length,
    charts: document.querySelectorAll("svg").length, images: document.images.length});
});
</script>
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt install chromium (CI does)")


def unfolded(page):
    return page.read_text().replace('<details class="subset">', '<details open class="subset">')


def look(page, width, tmp_path):
    """What the browser made of a page: lays it out at that width and measures it."""
    probed = tmp_path / "probed.html"
    content = html.escape(unfolded(page).replace("</body>", f"{PROBE}</body>"))
    # In a frame: a window of its own is never narrower than 500.
    frame = f'<iframe style="border: 0" width="{width}" height="900" srcdoc="{content}"></iframe>'
    probed.write_text(f"<!DOCTYPE html><title></title>{frame}")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    options += [
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=5000",
        f"--window-size={width + 200},1000",
    ]
    finished = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", probed.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )

    return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", finished.stdout)[1]))


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_a_report_fits_the_screen(run, width, tmp_path):  # noqa: F811
    seen = look(write_report(run), width, tmp_path)
    assert seen["charts"] > 4
    assert seen["images"] > 4
    assert (seen["wide"], seen["small"], seen["broken"], seen["empty"]) == ([], 0, 0, 0)
    assert seen["page"] <= seen["width"] == width


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_a_comparison_fits_the_screen(runs, width, tmp_path):  # noqa: F811
    seen = look(write_comparison(runs, tmp_path / "page.html"), width, tmp_path)
    assert seen["charts"] > 4
    assert (seen["wide"], seen["small"], seen["empty"]) == ([], 0, 0)
    assert seen["page"] <= seen["width"] == width


def test_the_probe_sees_what_it_looks_for(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        '<body><div style="width: 700px">wide</div><p style="font-size: 8px">small</p><img src="none.png"></body>'
    )
    seen = look(page, PHONE, tmp_path)
    assert (len(seen["wide"]), seen["small"], seen["broken"]) == (1, 1, 1)
    assert seen["page"] > PHONE
