"use strict";
(() => {
  const { dark, places, ops, figures } = JSON.parse(document.getElementById("figures").textContent);
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
  // Those above their points and those below are two rows.
  function turnCrowded(layout, width) {
    // Paper (640 px) has room for the numbers of a matrix, but not for asides.
    const out = [width < 700 && "aside", width < 600 && "square"];
    layout.annotations = layout.annotations?.filter((a) => !out.includes(a.name));
    const all = (layout.annotations ?? []).filter((a) => a.name === "profile");
    for (const side of ["bottom", "top"]) turnRow(all.filter((a) => a.yanchor === side), layout, width);
  }

  function turnRow(names, layout, width) {
    if (names.length === 0) return;
    const xs = names.map((a) => a.x);
    const [low, high] = layout.xaxis.range ?? [Math.min(...xs), Math.max(...xs)];
    const scale = (width - 80) / (high - low || 1);
    const stops = [...xs, high].sort((a, b) => a - b);
    const crowded = names.some((a) => {
      const next = stops.find((x) => x > a.x) ?? high;
      return (next - a.x) * scale < 7.5 * a.text.length + 20;
    });
    if (!crowded) return;
    let last = null;
    for (const a of [...names].sort((one, other) => one.x - other.x)) {
      // Too near for two turned names side by side: the second goes below.
      const near = last !== null && (a.x - last) * scale < 24;
      const below = a.yanchor === "top" || near;
      last = near ? null : a.x;
      Object.assign(a, { textangle: -40, xshift: below ? -2 : 1, yshift: below ? -6 : 7 });
      if (below) Object.assign(a, { xanchor: "right", yanchor: "top" });
    }
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

  // Every text of an op is set as text: names from a checkpoint are never read as markup.
  function make(tag, text, ...parts) {
    const made = document.createElement(tag);
    // No per cent sign wraps away from its number.
    if (text !== null) made.textContent = String(text).replace(/(\d) %/g, "$1\u00a0%");
    made.append(...parts);
    return made;
  }

  function link(name) {
    const made = make("a", name);
    if (Object.hasOwn(places, name)) made.href = `#${places[name]}`;
    return made;
  }

  const row = (cells, tag) => make("tr", null, ...cells.map((cell) => make(tag, cell)));

  function scrolled(table) {
    const box = make("div", null, table);
    box.className = "scroll";
    box.tabIndex = 0;
    return box;
  }

  function drawBins({ title, first, shares, says }) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    const most = Math.max(...shares, 1e-9);
    const step = 480 / Math.max(shares.length, 12);
    const power = (i) => `2^${ops.lowest + first + i}`.replace("-", "−");
    const bars = document.createElementNS(space, "path");
    bars.setAttribute("d", shares.map((share, i) => share > 0
      ? `M${i * step + 1} 72v${-72 * share / most}h${step - 2}V72z` : "").join(""));
    svg.append(bars);
    const every = Math.max(1, Math.ceil(shares.length / 8));
    for (let i = 0; i < shares.length; i += every) {
      const text = document.createElementNS(space, "text");
      text.setAttribute("x", i * step + 1);
      text.setAttribute("y", 88);
      text.textContent = power(i);
      svg.append(text);
    }
    svg.setAttribute("viewBox", "0 0 480 92");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${title}: ${says}`);
    const numbers = make("table", null, make("thead", null, row(["Magnitude from", "Share of the values"], "th")),
      make("tbody", null, ...shares.map((share, i) => row([power(i), `${(100 * share).toFixed(2)} %`], "td"))));
    const box = make("div", null, make("h4", `${title}: share of the values by magnitude`), svg,
      make("p", says), make("details", null, make("summary", "Numbers"), scrolled(numbers)));
    box.className = "histogram note";
    return box;
  }

  function fill(body, op) {
    const facts = make("dl", null);
    const fact = (term, value) => facts.append(make("div", null, make("dt", term), value));
    for (const [term, text] of op.facts) fact(term, make("dd", text));
    if (op.group.length) {
      const names = make("dd", null);
      op.group.forEach((name, i) => names.append(i ? ", " : "", link(name)));
      fact("Shares its format with", names);
    }
    body.append(facts);
    if (op.scores.length) {
      const table = make("table", null, make("thead", null, row(ops.titles, "th")),
        make("tbody", null, ...op.scores.map(([report, rank, ...cells]) => {
          const [name, count] = ops.reports[report];
          return row([name, `${rank} of ${count}`, ...cells], "td");
        })));
      body.append(scrolled(table));
    }
    for (const [report, reason] of op.left) body.append(make("p", `${report}: ${reason}`));
    body.append(...op.histograms.map(drawBins));
  }

  // The parts of the ops are made when first wanted: there may be many hundreds.
  function listOps() {
    const list = document.getElementById("op-list");
    if (!list || list.childElementCount) return;
    for (const op of ops.ops) {
      const body = make("div", null);
      body.id = places[op.name];
      body.className = "op-body";
      const part = make("details", null, make("summary", op.name), body);
      part.className = "op";
      part.addEventListener("toggle", () => { if (part.open && !body.childElementCount) fill(body, op); });
      list.append(part);
    }
  }
  document.getElementById("every-op")?.addEventListener("toggle", listOps);

  // A link to an op opens every part that it is folded into.
  function reveal() {
    if (location.hash.startsWith("#op-")) listOps();
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let part = target; part; part = part.parentElement) {
      if (part.tagName === "DETAILS") part.open = true;
    }
    // Again once the parts that opened have been drawn, as that moves what is below them.
    for (const wait of [0, 150]) setTimeout(() => target.scrollIntoView({ behavior: "instant" }), wait);
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
