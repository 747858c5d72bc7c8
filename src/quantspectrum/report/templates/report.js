"use strict";
(() => {
  const { dark, places, figures } = JSON.parse(document.getElementById("figures").textContent);
  const night = window.matchMedia("(prefers-color-scheme: dark)");
  const widths = new Map();
  let printing = false;

  // Figures carry their light colours; at night each is exchanged for its dark one.
  function themed(value) {
    if (typeof value === "string") {
      return night.matches && !printing && Object.hasOwn(dark, value) ? dark[value] : value;
    }
    if (Array.isArray(value)) return value.map(themed);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, themed(part)]));
  }

  // Names beside points are turned where one would run into the next point or out of the plot.
  function turnCrowded(layout, width) {
    const names = (layout.annotations ?? []).filter((a) => a.name === "profile");
    if (names.length === 0) return;
    const [low, high] = layout.xaxis.range;
    const scale = (width - 80) / (high - low);
    const stops = [...names.map((a) => a.x), high].sort((a, b) => a - b);
    const crowded = names.some((a) => {
      const next = stops.find((x) => x > a.x) ?? high;
      return (next - a.x) * scale < 7.5 * a.text.length + 20;
    });
    if (!crowded) return;
    for (const a of names) Object.assign(a, { textangle: -40, xshift: 1, yshift: 7 });
  }

  function draw(id) {
    const plot = document.getElementById(id);
    const { data, layout } = themed(figures[id]);
    // Printing starts before the page has its paper's width: 640 px fit on A4 and on Letter.
    const width = printing ? Math.min(plot.clientWidth, 640) : plot.clientWidth;
    turnCrowded(layout, width);
    widths.set(id, plot.clientWidth);
    Plotly.react(plot, data, { ...layout, width }, { displayModeBar: false });
    if (plot.dataset.linked) return;
    plot.dataset.linked = "yes";
    // A bar or a square of the ranking or a heatmap leads to its op.
    plot.on("plotly_click", ({ points }) => {
      const name = points[0]?.customdata;
      if (typeof name === "string" && Object.hasOwn(places, name)) location.hash = places[name];
    });
  }

  // A link to an op opens every part that it is folded into.
  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let part = target; part; part = part.parentElement) {
      if (part.tagName === "DETAILS") part.open = true;
    }
    target.scrollIntoView({ behavior: "auto" });
  }

  const find = document.getElementById("find-op");
  find?.addEventListener("input", () => {
    const wanted = find.value.trim().toLowerCase();
    const ops = [...document.querySelectorAll("details.op")];
    for (const op of ops) op.hidden = !op.firstElementChild.textContent.toLowerCase().includes(wanted);
    const shown = ops.filter((op) => !op.hidden).length;
    document.getElementById("found-ops").textContent = wanted ? `${shown} of ${ops.length}` : "";
  });

  // A figure inside a closed part has no width yet: it is drawn when the part opens.
  function drawFresh() {
    for (const id of Object.keys(figures)) {
      const width = document.getElementById(id).clientWidth;
      if (width > 0 && width !== widths.get(id)) draw(id);
    }
  }

  const redraw = () => [...widths.keys()].forEach(draw);
  drawFresh();
  reveal();
  window.addEventListener("hashchange", reveal);
  document.addEventListener("toggle", drawFresh, true);
  window.addEventListener("resize", drawFresh);
  night.addEventListener("change", redraw);
  window.addEventListener("beforeprint", () => { printing = true; redraw(); });
  window.addEventListener("afterprint", () => { printing = false; redraw(); });
})();
