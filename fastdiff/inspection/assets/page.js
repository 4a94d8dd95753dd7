"use strict";
const run = JSON.parse(document.getElementById("run").textContent);
const last = run.states.length - 1;
const slider = document.getElementById("step");
const plots = [];    // elements with a marker at the step
const painters = []; // functions of the step that draw a panel's frame
const later = [];    // drawing, once everything has its place and size
const CONFIG = { responsive: true, displaylogo: false, displayModeBar: false };
const FOUR = ["#3b82f6", "#e8710a", "#12a06b", "#b25fd1"];

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function card(title, words, content) {
  const made = element("figure", { class: "card" }, element("h2", {}, title));
  if (words) made.append(element("figcaption", { class: "words" }, words));
  made.append(content);
  return made;
}

function theme() {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue(name).trim();
}

// The page's colours, for plotly: as changes to a layout.
function colours(layout) {
  const of = theme();
  const changes = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", "font.color": of("--ink"),
    "hoverlabel.bgcolor": of("--card"), "hoverlabel.bordercolor": of("--line"), "hoverlabel.font.color": of("--ink"),
  };
  for (const axis of ["xaxis", "yaxis", "yaxis2"]) {
    if (layout[axis]) Object.assign(changes, { [axis + ".gridcolor"]: of("--line"), [axis + ".linecolor"]: of("--line") });
  }
  if (layout.shapes) changes["shapes[0].line.color"] = of("--mark");
  return changes;
}

function draw(where, data, layout) {
  Plotly.newPlot(where, data, layout, CONFIG).then(() => Plotly.relayout(where, colours(layout)));
}

function marker() {
  return [{ type: "line", xref: "x", yref: "paper", x0: 0, x1: 0, y0: 0, y1: 1, line: { width: 2, dash: "dot" } }];
}

for (const { name, title, words, figure } of run.figures) {
  const where = element("div", { id: "plot-" + name, role: "img", "aria-label": title + ". " + words });
  document.getElementById("plots").append(card(title, words, where));
  figure.layout.shapes = marker();
  figure.layout.xaxis.range = [-0.4, last + 0.4];
  plots.push(where);
  later.push(() => {
    draw(where, figure.data, figure.layout);
    where.on("plotly_click", (event) => go(event.points[0].x));
  });
}

function pictures(panel) {
  const grid = element("div", { class: panel.frames[0].length <= 4 ? "pictures few" : "pictures" });
  const images = panel.frames[0].map((source, k) => {
    const image = element("img", { alt: "sample " + k, src: source, title: "sample " + k });
    image.addEventListener("load", () => {
      image.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
    }, { once: true });
    grid.append(image);
    return image;
  });
  const note = element("p", { class: "words", hidden: "" }, "There is none at the result, which is not evaluated.");
  painters.push((i) => { note.hidden = i < panel.frames.length; });
  painters.push((i) => images.forEach((image, k) => {
    const source = i < panel.frames.length ? panel.frames[i][k] : null;
    image.classList.toggle("none", !source);
    if (source) image.src = source;
    image.alt = "sample " + k + ", " + panel.name + (i === last ? ", result" : ", step " + i);
  }));
  const made = card(panel.title, "", note);
  made.append(grid);
  return made;
}

function base(x, y) {
  return {
    height: 320, margin: { l: 50, r: 14, t: 8, b: 40 }, hovermode: "closest", showlegend: true,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11 } },
    xaxis: { title: { text: x, standoff: 6 }, zeroline: false }, yaxis: { title: { text: y, standoff: 6 }, zeroline: false, automargin: true },
  };
}

function plotted(panel, data, layout, change) {
  const where = element("div", { id: "panel-" + panel.name, role: "img", "aria-label": panel.title });
  later.push(() => draw(where, data, layout));
  painters.push((i) => change(where, i));
  return card(panel.title, "", where);
}

function curves(panel) {
  const dashes = ["solid", "dot", "dash", "dashdot"];
  const data = panel.lines.map(({ label, sample, channel }, k) => ({
    type: "scatter", mode: "lines", name: label, x: panel.x, y: panel.frames[0][k], hovertemplate: "%{y:.4g}",
    line: { width: 1.4, color: FOUR[sample], dash: dashes[channel] },
  }));
  return plotted(panel, data, base("place", "value"), (where, i) => {
    if (i < panel.frames.length) Plotly.restyle(where, { y: panel.frames[i] });
  });
}

function cloud(panel) {
  const paths = panel.paths.map(([x, y], k) => ({
    type: "scatter", mode: "lines", x, y, name: "paths", legendgroup: "paths", showlegend: k === 0, hoverinfo: "skip",
    line: { width: 1, color: "rgba(128,140,155,.35)" },
  }));
  const points = ["z", "x0"].map((name, k) => ({
    type: "scatter", mode: "markers", name, x: panel.frames[0][k][0], y: panel.frames[0][k][1],
    marker: { size: 5, opacity: 0.75, color: FOUR[k] }, hovertemplate: "(%{x:.3g}, %{y:.3g})",
  }));
  const layout = base("first coordinate", "second coordinate");
  layout.height = 520;
  layout.xaxis.range = panel.range[0];
  Object.assign(layout.yaxis, { range: panel.range[1], scaleanchor: "x", constrain: "domain" });
  layout.xaxis.constrain = "domain";
  const places = [paths.length, paths.length + 1];
  return plotted(panel, [...paths, ...points], layout, (where, i) => {
    const [z, x0] = panel.frames[i];
    Plotly.restyle(where, { x: [z[0], x0[0]], y: [z[1], x0[1]] }, places);
  });
}

function histogram(panel) {
  const data = ["z", "x0"].map((name, k) => ({
    type: "scatter", mode: "lines", name, x: panel.x, y: panel.frames[0][k], line: { shape: "hvh", color: FOUR[k], width: 2 },
    hovertemplate: "%{y:.3g}",
  }));
  return plotted(panel, data, base("value", "density"), (where, i) => Plotly.restyle(where, { y: panel.frames[i] }));
}

const makers = { pictures, curve: curves, cloud, histogram };
const samples = document.getElementById("samples");
samples.className = run.samples.panels.length > 1 ? "panels" : "panels alone";
for (const panel of run.samples.panels) samples.append(makers[run.samples.view](panel));
if (!run.samples.panels.length) samples.remove();
for (const drawing of later) drawing();

let here = -1, waiting = false;

function paint() {
  waiting = false;
  const i = here;
  for (const painter of painters) painter(i);
  for (const where of plots) Plotly.relayout(where, { "shapes[0].x0": i, "shapes[0].x1": i });
  for (const row of document.querySelectorAll("tbody tr")) {
    row.classList.toggle("here", Number(row.dataset.i) === i);
    if (Number(row.dataset.i) === i) row.setAttribute("aria-current", "step"); else row.removeAttribute("aria-current");
  }
}

function go(i) {
  const next = Math.max(0, Math.min(last, Math.round(i)));
  if (next === here) return;
  here = next;
  slider.value = here;
  slider.setAttribute("aria-valuetext", "step " + here + ", " + run.states[here]);
  document.getElementById("number").textContent = here;
  document.getElementById("caption").textContent = run.states[here];
  if (!waiting) { waiting = true; requestAnimationFrame(paint); }
}

let timer = null;
const play = document.getElementById("play");

function stop() {
  clearInterval(timer);
  timer = null;
  play.textContent = "▶";
  play.setAttribute("aria-label", "Play");
}

play.addEventListener("click", () => {
  if (timer) return stop();
  if (here === last) go(0);
  play.textContent = "❚❚";
  play.setAttribute("aria-label", "Pause");
  timer = setInterval(() => { go(here + 1); if (here === last) stop(); }, Math.max(120, 4000 / Math.max(last, 1)));
});
slider.addEventListener("input", () => { stop(); go(Number(slider.value)); });
document.getElementById("back").addEventListener("click", () => { stop(); go(here - 1); });
document.getElementById("on").addEventListener("click", () => { stop(); go(here + 1); });
document.querySelector("tbody").addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (row) { stop(); go(Number(row.dataset.i)); }
});
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, .scroll") || event.ctrlKey || event.altKey || event.metaKey) return;
  const moves = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: last };
  if (event.key in moves) { stop(); go(moves[event.key]); event.preventDefault(); }
});
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const where of document.querySelectorAll(".js-plotly-plot")) Plotly.relayout(where, colours(where.layout));
});
go(last);
