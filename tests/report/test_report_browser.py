"""The page in a real browser: figures are drawn, nothing is logged, nothing overflows a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from report_pages import parse
from test_report_hostile import write_hostile_run
from test_report_tradeoff import compared

from quantspectrum.artifacts import (
    Histogram,
    Histograms,
    OpHistograms,
    SensitivityReport,
    read_artifact,
    write_artifact,
)
from quantspectrum.report import write_report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium binary on the path"),
]

# Loads the page in a frame as wide as a phone, opens every part, and writes down what it finds.
PROBE = """<!doctype html><meta charset="utf-8">
<iframe src="REPORT" style="width:WIDTHpx;height:900px"></iframe>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => setTimeout(() => {
  const page = frame.contentDocument;
  for (const part of page.querySelectorAll("details")) part.open = true;
  // The parts of the ops are made once their own part is open.
  setTimeout(() => {
    for (const part of page.querySelectorAll("details.op")) part.open = true;
  }, 1000);
  setTimeout(() => {
    const root = page.documentElement;
    const list = page.querySelectorAll("details.op");
    const find = page.getElementById("find-op");
    let found = null;
    if (find) {
      find.value = "down_proj";
      find.dispatchEvent(new Event("input"));
      found = [...list].filter((op) => !op.hidden).length;
      find.value = "";
      find.dispatchEvent(new Event("input"));
    }
    const bar = page.querySelector("[id^=ranking-0]");
    bar?.emit?.("plotly_click", { points: [{ customdata: bar.data[0].customdata[1] }] });
    const clicked = frame.contentWindow.location.hash;
    const plots = [...page.querySelectorAll(".plot")];
    const result = {
      title: page.title,
      ops: list.length,
      found,
      clicked,
      wanted: bar?.data[0].customdata[1],
      named: page.querySelector("details.op summary")?.textContent,
      filled: page.querySelectorAll(".op-body dl").length,
      bars: page.querySelectorAll(".histogram path").length,
      bold: page.querySelectorAll(".op b, .op img, .op script").length,
      overflow: root.scrollWidth - root.clientWidth,
      plots: plots.map((p) => p.querySelectorAll(".main-svg").length),
      wide: plots.filter((p) => p.querySelector(".main-svg")?.clientWidth > p.clientWidth).length,
      scripts: page.scripts.length,
      handlers: page.querySelectorAll("[onerror],[onload],[onclick]").length,
      ink: getComputedStyle(page.body).color,
      drawn: page.querySelector(".plot .xtick text")?.style.fill,
    };
    document.body.textContent = "RESULT" + JSON.stringify(result) + "END";
  }, 3000);
}, 1500);
</script>"""


@dataclass(frozen=True)
class Seen:
    """What the browser found in the page, and everything it logged."""

    found: dict[str, object]
    log: str


def browse(page: Path, work: Path, *flags: str, width: int = 1280) -> Seen:
    assert CHROMIUM is not None
    probe = work / "probe.html"
    probe.write_text(PROBE.replace("REPORT", page.as_uri()).replace("WIDTH", str(width)))
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--enable-logging=stderr",
            "--v=0",
            "--allow-file-access-from-files",
            f"--user-data-dir={work / 'profile'}",
            "--window-size=1400,1000",
            "--virtual-time-budget=20000",
            *flags,
            "--dump-dom",
            probe.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    result = re.search(r"RESULT(\{.*\})END", done.stdout)
    assert result, done.stderr[-2000:]
    return Seen(json.loads(result[1].replace("&amp;", "&").replace("&lt;", "<")), done.stderr)


def console(log: str) -> list[str]:
    return [line for line in log.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("width", [1280, 390])
def test_every_figure_is_drawn_and_fits(reported: Path, tmp_path: Path, width: int) -> None:
    seen = browse(reported / "report.html", tmp_path, width=width)
    assert console(seen.log) == []
    assert len(seen.found["plots"]) == 10  # type: ignore[arg-type]
    assert all(seen.found["plots"])  # type: ignore[call-overload]
    assert seen.found["wide"] == 0
    assert seen.found["overflow"] == 0


def test_paper_holds_every_table(reported: Path, tmp_path: Path) -> None:
    """What overflows paper makes the browser shrink all pages; A4 less its margins is 688 px."""
    page = (reported / "report.html").read_text(encoding="utf-8")
    assert page.count("@media print") == 1
    paper = tmp_path / "paper.html"
    paper.write_text(page.replace("@media print", "@media all"), encoding="utf-8")
    assert browse(paper, tmp_path, width=688).found["overflow"] == 0


def test_ops_are_found_opened_and_reached_from_figures(run: Path, tmp_path: Path) -> None:
    report = read_artifact(run / "sensitivity/native-mse_v2.fallback.json", SensitivityReport)
    counts = (0,) * 20 + (5, 9, 3) + (0,) * 25
    one = Histogram(counts=counts, zeros=1, negative=8, low=-0.2, high=0.3)
    write_artifact(
        run / "histograms.json",
        Histograms(
            provenance=report.provenance,
            samples=8,
            ops={report.ops[0].name: OpHistograms(weight=one, inputs=one)},
        ),
    )
    write_report(run)
    seen = browse(run / "report.html", tmp_path)
    assert console(seen.log) == []
    assert seen.found["ops"] == report.coverage.found
    assert seen.found["filled"] == seen.found["ops"]
    assert seen.found["found"] == sum("down_proj" in op.name for op in report.ops)
    assert seen.found["named"] == report.ops[0].name
    assert seen.found["bars"] == 2
    assert seen.found["wanted"] == report.ops[1].name
    assert seen.found["clicked"] == "#op-1"


def test_a_figure_of_divergences_is_drawn(tmp_path: Path) -> None:
    run = tmp_path / "run"
    compared(run, ("a", 0.001, (1e-6, 3e-6)), ("b", 0.002, (0.0, 0.0)))
    write_report(run)
    seen = browse(run / "report.html", tmp_path, width=390)
    assert console(seen.log) == []
    assert seen.found["plots"] == [3]
    assert seen.found["wide"] == seen.found["overflow"] == 0


def test_dark_mode_turns_page_and_figures(reported: Path, tmp_path: Path) -> None:
    light = browse(reported / "report.html", tmp_path)
    dark = browse(reported / "report.html", tmp_path, "--blink-settings=preferredColorScheme=0")
    assert light.found["ink"] == "rgb(28, 33, 38)"
    assert dark.found["ink"] == "rgb(230, 233, 236)"
    assert light.found["drawn"] == "rgb(92, 102, 112)"
    assert dark.found["drawn"] == "rgb(160, 170, 180)"


def test_the_picture_tool_takes_the_first_screen(reported: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "shot.png"
    tool = Path(__file__).parents[2] / "tools" / "report_picture.py"
    command = [sys.executable, tool, reported / "report.html", out, "--width=390", "--height=900"]
    subprocess.run(command, check=True, timeout=240)
    assert out.stat().st_size < 300_000
    with Image.open(out) as opened:
        picture = opened.convert("RGB")
    assert picture.size == (390, 900)
    # The rule beside the recommendation, and the diamond of the recommended profile.
    colors = {color for _, color in picture.getcolors(390 * 900) or []}
    for red, green, blue in ((0, 114, 178), (213, 94, 0)):
        assert any(abs(r - red) + abs(g - green) + abs(b - blue) < 30 for r, g, b in colors)


def test_hostile_text_does_nothing(tmp_path: Path) -> None:
    run = write_hostile_run(tmp_path / "run")
    write_report(run)
    seen = browse(run / "report.html", tmp_path)
    # An alert would be logged, a blocked script or picture too.
    assert console(seen.log) == []
    assert seen.found["scripts"] == 3
    assert seen.found["handlers"] == 0
    assert seen.found["bold"] == 0
    assert str(seen.found["title"]).endswith("quantization spectrum")
    assert "PWNED" in parse((run / "report.html").read_text(encoding="utf-8")).text
    assert all(seen.found["plots"])  # type: ignore[call-overload]
