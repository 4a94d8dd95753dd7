"""How near the errors that a trace estimates are to those that it measures, and what its page looks like.

python -m bench.trace      # bench/results/trace.md, and trace.png where there are chromium and playwright
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import fastdiff as fd
from fastdiff import demo

from .markdown import table

RESULTS = Path(__file__).parent / "results"
NETWORKS = ("digits", "mnist", "terrain", "series", "colour")
SOLVERS = ("ddim", "heun", "dpmpp_2m", "dpmpp_3m_exact", "unipc", "deis")
STEPS, SAMPLES, SUBSTEPS = 12, 8, 4
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT, COLOURS = 1280, 1120, 192  # of the picture

WORDS = f"""# Estimated and measured errors of steps

`python -m bench.trace`. {STEPS} steps, {SAMPLES} samples, float32. The error that `fd.trace` estimates for each step
and sample, divided by the one that it measures with {SUBSTEPS} steps of the fifth order: the median over steps and
samples, and the 10th and 90th percentiles. Last steps, which have no estimate, are left out. The correlation is that of
the logarithms, over all steps and samples of a solver.
"""


def traces(name: str, solver: str) -> tuple[fd.Trace, fd.Trace]:
    """The same run with estimated and with measured errors."""
    net = demo.network(name)
    grid = "karras" if net.schedule.kind == "ve" else "time"
    plan = fd.plan(solver, net.schedule, STEPS, grid=grid, prediction=net.prediction)
    noise = fd.noise.randn((SAMPLES, *net.shape), range(SAMPLES))
    given = net.conditions(range(SAMPLES))
    estimated = fd.trace(net.model, plan, noise, **given)
    measured = {"reference": "measured", "schedule": net.schedule, "substeps": SUBSTEPS}
    return estimated, fd.trace(net.model, plan, noise, **measured, **given)


def rows() -> Iterator[list[str]]:
    """A row a solver, a column a network, and the correlation."""
    for solver in SOLVERS:
        cells, logs = [], []
        for name in NETWORKS:
            estimated, measured = (trace.error.numpy() for trace in traces(name, solver))
            known = np.isfinite(estimated) & np.isfinite(measured) & (measured > 0) & (estimated > 0)
            ratios = estimated[known] / measured[known]
            low, median, high = np.quantile(ratios, [0.1, 0.5, 0.9])
            cells.append(f"{median:.2f} ({low:.2f} to {high:.2f})")
            logs.append(np.log([estimated[known], measured[known]]))
        correlation = np.corrcoef(np.concatenate(logs, 1))[0, 1]
        yield [f"`{solver}`", *cells, f"{correlation:.2f}"]


def picture(path: Path) -> None:
    """What the page of a guided run looks like in the middle of it."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    net = demo.network("latent")
    plan = fd.plan("dpmpp_2m", net.schedule, 20, prediction=net.prediction)
    noise = fd.noise.randn((8, *net.shape), range(8))
    given = net.conditions(range(8))
    trace = fd.trace(net.model, plan, noise, guidance=fd.guidance.APG(4.0), uncond=net.uncond(), **given)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_path, shot = Path(folder, "run.html"), Path(folder, "shot.png")
        trace.html(page_path, decode=net.decode, title="Latent digits, APG 4")
        program = next(filter(None, map(shutil.which, BROWSERS)))
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(page_path.as_uri())
        page.focus("#step")
        page.keyboard.press("Home")
        for _ in range(6):
            page.keyboard.press("ArrowRight")
        page.wait_for_selector("tr.here[data-i='6']")
        page.evaluate("document.activeElement.blur()")
        page.wait_for_timeout(500)
        page.screenshot(path=str(shot))
        browser.close()
        Image.open(shot).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Measure, and write."""
    head = ["solver", *NETWORKS, "correlation"]
    (RESULTS / "trace.md").write_text(f"{WORDS}\n{table(head, rows())}\n")
    if any(map(shutil.which, BROWSERS)):
        picture(RESULTS / "trace.png")


if __name__ == "__main__":
    main()
