"""A trace's page: whole, valid, without a network, and alive in a browser where there is one."""

from __future__ import annotations

import builtins
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.inspection.views import view_of

pytest.importorskip("plotly")
FLOW = fd.Schedule.flow()
STEPS = 5
VOID = {"meta", "link", "input", "img", "br"}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def velocity(x: Tensor, t: Tensor, y: float = 0.0) -> Tensor:
    return torch.sin(1.3 * x + t.view(-1, *[1] * (x.ndim - 1)) + y)


def traced(*shape: int, steps: int = STEPS, **options: object) -> fd.Trace:
    return fd.trace(velocity, fd.plan("dpmpp_2m", FLOW, steps), torch.randn(shape), **options)


class Page(HTMLParser):
    """What a page is made of. Raises AssertionError where its elements do not close."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self._open: list[tuple[str, str]] = []  # tags and names: the id, or else the tag
        self.source = path.read_text()
        self.feed(self.source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs).get("id") or tag))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        name = self._open[-1][1] if self._open else ""
        self.text[name] = self.text.get(name, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def run(self) -> dict:
        return json.loads(self.text["run"])


@pytest.mark.parametrize(
    ("shape", "view", "panels"),
    [
        ((3, 1, 8, 8), "pictures", ["x0", "x", "eps"]),
        ((3, 3, 8, 6), "pictures", ["x0", "x", "eps"]),
        ((3, 4, 7, 7), "pictures", ["x0", "x", "eps"]),
        ((2, 4, 3, 8, 8), "pictures", ["x0", "x", "eps"]),
        ((3, 2, 64), "curve", ["x0", "x"]),
        ((3, 400), "curve", ["x0", "x"]),
        ((20, 2), "cloud", ["z"]),
        ((3, 30, 2), "cloud", ["z"]),
        ((20, 5), "histogram", ["values"]),
        ((3, 2, 2, 2, 2, 2), "histogram", ["values"]),
    ],
)
def test_a_page_has_every_step_in_the_view_of_its_samples_and_fetches_nothing(shape, view, panels, tmp_path):
    traced(*shape, guidance=2.0, uncond={"y": 0.5}, guidance_mode="calls").html(tmp_path / "run.html")
    page = Page(tmp_path / "run.html")
    samples = page.run["samples"]
    assert samples["view"] == view
    assert [panel["name"] for panel in samples["panels"]] == panels
    for panel in samples["panels"]:
        assert len(panel["frames"]) == STEPS + (panel["name"] != "eps")
    assert len(page.run["states"]) == STEPS + 1
    assert [row["data-i"] for row in page.all("tr") if "data-i" in row] == [str(i) for i in range(STEPS + 1)]
    assert next(row for row in page.all("input"))["max"] == str(STEPS)
    assert {"error", "turn", "guidance", "weights"} <= {figure["name"] for figure in page.run["figures"]}
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert [link for link in links if not link.startswith("data:")] == []
    assert "@import" not in page.text["style"]
    assert "url(" not in page.text["style"]


def test_every_control_has_a_name_and_a_title_is_text(tmp_path):
    title = "</script><b>bold</b> & more"
    traced(2, 1, 8, 8).html(tmp_path / "run.html", title=title)
    page = Page(tmp_path / "run.html")
    assert page.text["h1"] == page.text["title"] == title
    assert not page.all("b")
    assert all(button.get("aria-label") for button in page.all("button"))
    assert {label["for"] for label in page.all("label")} == {field["id"] for field in page.all("input")}
    assert page.all("html")[0]["lang"] == "en"


def test_numbers_that_are_not_finite_make_a_page_with_a_warning(tmp_path):
    trace = fd.trace(lambda x, t: x * float("nan"), fd.plan("ddim", FLOW, 3), torch.randn(2, 1, 8, 8))
    trace.html(tmp_path / "run.html")
    page = Page(tmp_path / "run.html")
    assert "first in step 0, sample 0" in page.text["p"]
    assert "NaN" not in page.text["run"]


@pytest.mark.parametrize(("shape", "steps"), [((8, 3, 32, 32), 50), ((2000, 2), 200), ((8, 3, 500), 100)])
def test_long_runs_of_many_samples_fit_into_eight_megabytes(shape, steps, tmp_path):
    traced(*shape, steps=steps).html(tmp_path / "run.html")
    assert (tmp_path / "run.html").stat().st_size < 8e6


def test_latents_are_decoded_and_what_does_not_fit_is_refused(tmp_path):
    trace, path = traced(3, 4, 7, 7), tmp_path / "run.html"
    sizes = []

    def decode(x: Tensor) -> Tensor:
        sizes.append(tuple(x.shape))
        return x[:, :3].repeat_interleave(2, -1)

    trace.html(path, decode=decode)
    assert sizes == [(3, 4, 7, 7)] * (STEPS + 1)
    path.unlink()
    with pytest.raises(ValueError, match=r"decode: expected images \[3, 1 or 3, H, W\], got shape"):
        trace.html(path, decode=lambda x: x)
    with pytest.raises(ValueError, match="view: 'curve' does not fit samples of shape"):
        trace.html(path, view="curve")
    with pytest.raises(ValueError, match="view: expected one of image, channels"):
        trace.html(path, view="film")
    with pytest.raises(ValueError, match="decode: it makes images"):
        trace.html(path, view="histogram", decode=decode)
    assert list(tmp_path.iterdir()) == []


def test_without_plotly_there_is_an_error_that_says_what_to_install_and_still_a_table(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name.split(".")[0] == "plotly":
            raise ImportError(name)
        return real(name, *rest)

    trace = traced(2, 5)
    for name in [name for name in sys.modules if name.split(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'fastdiff\[trace\]'"):
        trace.html(tmp_path / "run.html")
    trace.save(tmp_path / "run.safetensors")
    assert len(trace.table()) == STEPS + 1
    assert "dpmpp_2m" in str(trace)


def test_views_by_shape():
    assert view_of((16, 16)) == "image"
    assert view_of((3, 512)) == "curve"
    assert view_of((7,)) == "histogram"
    assert view_of((2,)) == "cloud"
    assert view_of((2,), "histogram") == "histogram"


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_the_slider_moves_pictures_marks_and_the_table_in_a_browser(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    traced(2, 1, 8, 8).html(tmp_path / "run.html")
    trouble: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: re.match("(file|data|blob):", request.url) or trouble.append(request.url))
        page.goto((tmp_path / "run.html").as_uri())
        page.wait_for_selector("tr.here")
        assert page.get_attribute("tr.here", "data-i") == str(STEPS)
        source = page.get_attribute("#samples img", "src")
        page.focus("#step")
        page.keyboard.press("Home")
        page.wait_for_selector("tr.here[data-i='0']")
        assert page.get_attribute("#samples img", "src") != source
        assert page.get_attribute("#step", "aria-valuetext").startswith("step 0, t 1 ")
        page.click("#on")
        page.wait_for_selector("tr.here[data-i='1']")
        marks = page.evaluate(
            "[...document.querySelectorAll('#plots .js-plotly-plot')].map(p => p.layout.shapes[0].x0)"
        )
        assert set(marks) == {1}
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        browser.close()
    assert trouble == []
