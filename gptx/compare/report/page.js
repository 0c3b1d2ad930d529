"use strict";
(() => {
  const data = JSON.parse(document.getElementById("chart-data").textContent);
  const element = (id) => document.getElementById(id);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = () => innerWidth < 640;
  let printing = false;

  // The palette of Okabe and Ito (2008) without yellow, which is too light on paper; dashes tell equal colours apart.
  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star"];
  const VERDICTS = { better: "circle", worse: "square", equivalent: "diamond", undecided: "circle-open" };
  const SHOWN = 8; // curves that are drawn at first

  const theme = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const ink = () => (printing ? "#000000" : theme("ink"));
  const line = () => (printing ? "#cccccc" : theme("line"));
  const text = (name) => String(name).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); // plotly reads tags
  const units = (metric) => (metric.unit && metric.unit !== metric.title ? `${metric.title} (${metric.unit})` : metric.title);
  const short = (name, most) => (name.length > most ? `${name.slice(0, most - 1)}…` : name);
  const wrapped = (name, most) => {
    const lines = [""];
    for (const word of name.split(" ")) {
      const last = lines[lines.length - 1];
      if (last && last.length + word.length >= most) lines.push(word);
      else lines[lines.length - 1] = last ? `${last} ${word}` : word;
    }
    return lines.map((part) => text(short(part, most))).join("<br>");
  };
  const translucent = (colour, alpha) => {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    return `rgba(${r},${g},${b},${alpha})`;
  };
  const style = (i, baseline) => ({
    color: baseline ? ink() : COLOURS[i % COLOURS.length],
    dash: baseline ? "solid" : DASHES[Math.floor(i / COLOURS.length) % DASHES.length],
    symbol: baseline ? "star" : SYMBOLS[Math.floor(i / COLOURS.length) % SYMBOLS.length],
  });

  function layout(more) {
    const axis = { gridcolor: line(), zerolinecolor: line(), linecolor: line(), automargin: true };
    return {
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: ink() },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      hoverlabel: { font: { size: 12 }, namelength: -1 },
      ...more,
      margin: { l: 10, r: 10, t: 10, b: 10, ...more.margin },
      xaxis: { ...axis, ...more.xaxis },
      yaxis: { ...axis, ...more.yaxis },
    };
  }
  const draw = (id, traces, shape) =>
    Plotly.react(element(id), traces, layout(shape), {
      responsive: true, displayModeBar: false, doubleClick: "reset",
    });

  function drawForest() {
    const forest = data.forest;
    if (!forest) return;
    const rows = forest.rows.map((row, i) => ({ ...row, i }));
    const most = narrow() ? 18 : rows.length > 30 ? 64 : 46;
    const traces = Object.keys(VERDICTS).flatMap((verdict) => {
      const found = rows.filter((row) => row.verdict === verdict && row.estimate !== null);
      if (!found.length) return [];
      const half = found.map((row) => (row.low === null ? 0 : (row.high - row.low) / 2));
      const number = (value) => (value === null ? "–" : value.toPrecision(4));
      return [{
        type: "scatter", mode: "markers", name: verdict,
        x: found.map((row) => row.estimate), y: found.map((row) => row.i),
        error_x: { type: "data", array: half, thickness: 1.6, width: 4, color: theme(verdict) },
        marker: { color: theme(verdict), symbol: VERDICTS[verdict], size: 9 },
        text: found.map((row) => `<b>${text(row.arm)}</b><br>${row.verdict}, ${row.seeds} seeds<br>` +
          `${number(row.estimate)} (${number(row.low)} to ${number(row.high)})`),
        hovertemplate: "%{text}<extra></extra>",
      }];
    });
    const shapes = [{ type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: ink(), width: 1 } }];
    if (forest.margin) shapes.push({
      type: "rect", x0: -forest.margin, x1: forest.margin, yref: "paper", y0: 0, y1: 1, layer: "below",
      fillcolor: translucent("#56b4e9", 0.22), line: { width: 0 },
    });
    const better = forest.metric.higher_is_better ? "higher" : "lower";
    const label = `${units(forest.metric)}: difference from ${forest.baseline}, ${better} is better`;
    const heights = rows.map((row) => wrapped(row.arm, most).split("<br>").length);
    draw("forest", traces, {
      height: 110 + heights.reduce((sum, lines) => sum + 11 + 15 * lines, 0), shapes,
      xaxis: { title: { text: wrapped(label, narrow() ? 30 : 64), standoff: 8 }, zeroline: false },
      yaxis: {
        tickvals: rows.map((row) => row.i), ticktext: rows.map((row) => wrapped(row.arm, most)),
        range: [rows.length - 0.4, -0.6], showgrid: false, zeroline: false, fixedrange: rows.length < 30,
      },
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" }, margin: { t: 30 },
    });
  }

  const AXES = { step: "steps", tokens: "tokens", flops: "FLOPs", seconds: "time (s)" };
  const chosenAxis = () => document.querySelector("#curve-axis input:checked")?.value ?? "step";

  function drawCurves() {
    const metric = data.curve_metrics.find((one) => one.key === element("curve-metric").value);
    if (!metric) return;
    const axis = chosenAxis();
    const traces = [];
    let end = 0;
    const ys = [];
    data.curves.forEach((arm, i) => {
      const band = arm.bands.find((one) => one.metric === metric.key);
      if (!band) return;
      const x = band[axis];
      const { color, dash } = style(i, arm.is_baseline);
      const visible = i < SHOWN || arm.is_baseline ? true : "legendonly";
      const name = wrapped(arm.diverged ? `${arm.name}, diverged` : arm.name, narrow() ? 40 : 34);
      end = Math.max(end, ...x.filter((value) => value !== null));
      ys.push(...x.map((value, k) => [value, band.high[k] ?? band.mean[k]]));
      if (arm.seeds > 1 && element("curve-bands").checked) {
        const edge = { type: "scatter", mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false, visible };
        traces.push({ ...edge, legendgroup: arm.name, x, y: band.low });
        traces.push({ ...edge, legendgroup: arm.name, x, y: band.high, fill: "tonexty", fillcolor: translucent(color.length === 7 ? color : "#808080", 0.18) });
      }
      traces.push({
        type: "scatter", mode: arm.diverged ? "lines+markers" : "lines", x, y: band.mean, name, visible, legendgroup: arm.name,
        line: { color, dash: arm.diverged ? "dot" : dash, width: arm.is_baseline ? 2.6 : 1.8 },
        marker: { symbol: "x", size: x.map((_, k) => (k === x.length - 1 ? 9 : 0)), color },
        text: band.mean.map((_, k) => (arm.seeds > 1 ? `${band.low[k]} to ${band.high[k]}, ${arm.seeds} seeds` : "one seed")),
        hovertemplate: `<b>${text(arm.name)}</b><br>${AXES[axis]} %{x:,.6~g}<br>%{y:.4f} (%{text})<extra></extra>`,
      });
    });
    const kept = ys.filter(([x, y]) => x !== null && y !== null && (element("curve-start").checked || x >= 0.08 * end));
    const values = data.curves.flatMap((arm) => arm.bands.filter((one) => one.metric === metric.key).flatMap((one) => one.low));
    const [low, high] = [Math.min(...values.filter((y) => y !== null)), Math.max(...kept.map(([, y]) => y))];
    const pad = 0.04 * (high - low) || 0.1;
    draw("curve-chart", traces, {
      height: narrow() ? 460 : 480, hovermode: "closest",
      xaxis: { title: { text: AXES[axis] }, rangemode: "tozero", exponentformat: "power" },
      yaxis: { title: { text: units(metric) }, range: kept.length ? [low - pad, high + pad] : undefined },
      legend: narrow() ? { orientation: "h", y: -0.25, yanchor: "top" } : { x: 1.01, y: 1, font: { size: 12 } },
    });
    const hidden = data.curves.length > SHOWN ? ` ${SHOWN} curves are drawn; a click in the legend shows or hides one, a double click shows it alone.` : "";
    element("curve-caption").textContent = data.curves.length
      ? `Mean of the seeds at each step that all of them reached; the band is the range of the seeds.${hidden}`
      : "The runs have no curves.";
  }

  function drawCosts() {
    const cost = data.costs.find((one) => one.key === element("cost-metric").value);
    const points = data.points.filter((one) => cost && one.costs[cost.key] !== null);
    const name = data.metric.higher_is_better ? "higher" : "lower";
    const front = points.filter((one) => one.places[cost.key] === "on the front").sort((a, b) => a.costs[cost.key] - b.costs[cost.key]);
    const off = (one) => front.length && one.places[cost.key] === "off the front";
    element("cost-caption").textContent = points.length
      ? `Means of the arms; bars are ± the sample standard deviation over seeds. ${data.metric.title}: ${name} is better; ` +
        `${cost.title}: ${cost.higher_is_better ? "higher" : "lower"} is better.${front.length ? " The line is the Pareto front: no other arm has a better mean at the same or a lower cost. Filled markers are on it or within the noise of it." : ""}` +
        (data.cost_problems[cost.key] ? ` Not comparable: ${data.cost_problems[cost.key]}.` : "")
      : "No arm has a value for this cost.";
    element("cost-chart").hidden = !points.length;
    if (!points.length) return;
    const labelled = points.length <= 12 && !narrow();
    const traces = points.map((one) => {
      const { color, symbol } = style(data.points.indexOf(one), one.is_baseline);
      return {
        type: "scatter", mode: labelled ? "markers+text" : "markers", x: [one.costs[cost.key]], y: [one.mean],
        name: wrapped(one.arm, 34), showlegend: !labelled, text: [labelled ? `  ${text(short(one.arm, 34))}` : ""], textposition: "middle right",
        textfont: { size: 11 }, cliponaxis: false,
        error_y: { type: "data", array: [one.deviation ?? 0], thickness: 1.2, width: 3, color },
        marker: { color, symbol: off(one) ? `${symbol}-open` : symbol, size: one.is_baseline ? 12 : 9 },
        hovertemplate: `<b>${text(one.arm)}</b><br>${text(cost.title)} %{x:,.6~g}<br>${text(data.metric.title)} %{y:.4f}<br>${one.seeds} seed${one.seeds > 1 ? "s" : ""}${one.places[cost.key] ? `<br>${text(one.places[cost.key])}` : ""}<extra></extra>`,
      };
    });
    if (front.length > 1) traces.unshift({
      type: "scatter", mode: "lines", x: front.map((one) => one.costs[cost.key]), y: front.map((one) => one.mean),
      line: { color: theme("quiet"), width: 1.2, dash: "dot" }, hoverinfo: "skip", showlegend: false,
    });
    const xs = points.map((one) => one.costs[cost.key]);
    const [left, right] = [Math.min(...xs), Math.max(...xs)];
    const gap = right - left || 0.1 * Math.abs(right) || 1; // labels are to the right of the points
    draw("cost-chart", traces, {
      height: narrow() ? 460 : 440, hovermode: "closest",
      xaxis: { title: { text: units(cost) }, exponentformat: "SI", range: [left - 0.06 * gap, right + (labelled ? 0.22 : 0.06) * gap] }, yaxis: { title: { text: units(data.metric) } },
      legend: narrow() ? { orientation: "h", y: -0.25, yanchor: "top" } : { x: 1.01, y: 1, font: { size: 12 } },
      margin: { t: 25, r: 30 },
    });
  }

  function drawGrid() {
    const panel = data.interactions[Number(element("grid-panel")?.value ?? -1)];
    if (!panel) return;
    const traces = panel.lines.map((one, i) => {
      const { color, dash, symbol } = style(i, false);
      return {
        type: "scatter", mode: "lines+markers", name: `${text(panel.second)}=${text(one.level)}`,
        x: panel.levels.map((_, k) => k + 0.04 * (i - (panel.lines.length - 1) / 2)), y: one.estimates,
        error_y: { type: "data", array: one.half_widths.map((half) => half ?? 0), thickness: 1.4, width: 4, color },
        line: { color, dash }, marker: { color, symbol: SYMBOLS[i % SYMBOLS.length], size: 9 },
        text: panel.levels.map((level, k) => `${text(panel.first)}=${text(level)}` + (one.half_widths[k] ? `<br>± ${one.half_widths[k].toPrecision(3)}` : "")),
        hovertemplate: "%{text}<br>%{y:.4f}<extra>%{fullData.name}</extra>",
      };
    });
    draw("grid-chart", traces, {
      height: 380, hovermode: "closest",
      xaxis: { title: { text: text(panel.first) }, tickvals: panel.levels.map((_, k) => k), ticktext: panel.levels.map((level) => wrapped(level, 20)) },
      yaxis: { title: { text: wrapped(`${units(data.metric)}, difference`, 50) } },
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" }, margin: { t: 30 },
    });
  }

  function choices() {
    const option = (select, one) => select.add(new Option(one.title, one.key));
    data.curve_metrics.forEach((one) => option(element("curve-metric"), one));
    data.costs.filter((cost) => data.points.some((one) => one.costs[cost.key] !== null)).forEach((one) => option(element("cost-metric"), one));
    data.interactions.forEach((panel, i) => option(element("grid-panel"), { title: `${panel.first} and ${panel.second}`, key: i }));
    element("grid-panel")?.addEventListener("change", drawGrid);
    const bands = data.curves.flatMap((arm) => arm.bands);
    for (const [key, name] of Object.entries(AXES)) {
      if (key !== "step" && !bands.some((band) => band[key].some((value) => value !== null))) continue;
      const label = document.createElement("label");
      const input = Object.assign(document.createElement("input"), { type: "radio", name: "axis", value: key, checked: key === "step" });
      label.append(input, ` ${name}`);
      element("curve-axis").append(label);
    }
    for (const id of ["curve-metric", "curve-axis", "curve-bands", "curve-start"]) element(id).addEventListener("change", drawCurves);
    element("cost-metric").addEventListener("change", drawCosts);
  }

  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const numeric = head.classList.contains("number");
      const key = (row) => row.cells[column].dataset.key;
      const order = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true }));
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
        return up ? order(x, y) : order(y, x);
      };
      body.append(...[...body.rows].sort(compare));
    }));
  }

  const drawAll = () => { drawForest(); drawGrid(); drawCurves(); drawCosts(); };
  choices();
  document.querySelectorAll("table.sortable").forEach(sortable);
  drawAll();
  dark.addEventListener("change", drawAll);
  let wasNarrow = narrow();
  addEventListener("resize", () => { if (narrow() !== wasNarrow) { wasNarrow = narrow(); drawAll(); } });
  addEventListener("beforeprint", () => { printing = true; drawAll(); });
  addEventListener("afterprint", () => { printing = false; drawAll(); });
})();
