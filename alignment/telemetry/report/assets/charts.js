"use strict";
// Draws the charts of the page with uPlot from the JSON beside it. Without it the legends still say the last values.
(() => {
  const HEIGHT = 210, SHOW_DOTS_BELOW = 40;
  const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3]];
  const root = document.documentElement;
  const drawn = [];

  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  // Updates are whole numbers, and so are the marks of their axis.
  const WHOLE = [1, 2, 5].concat(...Array.from({ length: 12 }, (_, k) => [1, 2, 5].map((one) => one * 10 ** (k + 1))));
  const isNumber = (value) => value !== null && value !== undefined;

  function format(value) {
    if (!isNumber(value)) return "NaN or infinite";
    const size = Math.abs(value);
    return size >= 1e4 && size < 1e15 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
  }

  function axes(chart, xLabel, incrs) {
    const common = { stroke: () => colour("quiet"), grid: { stroke: () => colour("grid"), width: 1 },
      ticks: { stroke: () => colour("grid"), width: 1, size: 4 }, font: "11px system-ui, sans-serif",
      labelFont: "11px system-ui, sans-serif", labelSize: 18, labelGap: 0 };
    const names = (u, splits) => splits.map((value) => (isNumber(value) ? format(Number(value.toPrecision(9))) : ""));
    const width = (u, values) => 16 + 6.5 * Math.max(1, ...(values || []).map((value) => value.length));
    return [
      { ...common, label: xLabel, size: 26, space: 60, values: names, ...(incrs && { incrs }) },
      { ...common, label: chart.unit, size: width, space: 32, values: names },
    ];
  }

  // Points without a neighbour to be joined with: between values that are not finite, or alone.
  function lonely(values) {
    const indices = values.map((value, index) => index).filter((index) => values[index] !== undefined);
    return indices.filter((index, k) => isNumber(values[index])
      && !isNumber(values[indices[k - 1]]) && !isNumber(values[indices[k + 1]]));
  }

  // Far values are left out until they are asked for, or alone in view.
  function within(limits, room) {
    return (u, low, high) => {
      let [from, to] = limits ? [Math.max(low, limits[0]), Math.min(high, limits[1])] : [low, high];
      if (!(from < to)) [from, to] = [low, high];
      return [from - room * (to - from || 1), to + room * (to - from || 1)];
    };
  }

  function curves(chart, { log, all }) {
    const series = [{}], tables = [[[...new Set(chart.ends)]]], owners = [];
    for (const line of chart.lines) {
      const look = { stroke: () => colour(`c${line.colour}`), dash: DASHES[line.dash] };
      owners.push({ line, index: series.length });
      series.push({ ...look, width: line.trend ? 1 : 1.8, alpha: line.trend ? 0.4 : 1, points: {
        show: line.x.length < SHOW_DOTS_BELOW, size: 5, fill: look.stroke,
        filter: (u, index, show) => (show ? null : lonely(u.data[index])),
      } });
      tables.push([line.x, line.y]);
      if (line.trend) {
        series.push({ ...look, width: 2.2, points: { show: false } });
        tables.push(line.trend);
      }
    }
    const y = log ? { distr: 3 } : chart.range && !all ? { range: within(chart.range, 0.04) } : {};
    return { series, owners, data: uPlot.join(tables), scales: { x: { time: false }, y },
      axes: axes(chart, "update", WHOLE), where: (x) => `update ${format(x)}`, draw: (u) => markDamage(u, owners) };
  }

  // A triangle at the foot of the chart wherever a value is NaN or infinite.
  function markDamage(u, owners) {
    const size = 5 * devicePixelRatio, foot = u.bbox.top + u.bbox.height;
    u.ctx.fillStyle = colour("bad");
    for (const { index } of owners) {
      u.data[index].forEach((value, k) => {
        if (value !== null) return;
        const x = u.valToPos(u.data[0][k], "x", true);
        if (x < u.bbox.left || x > u.bbox.left + u.bbox.width) return;
        u.ctx.beginPath();
        u.ctx.moveTo(x - size, foot);
        u.ctx.lineTo(x + size, foot);
        u.ctx.lineTo(x, foot - 2 * size);
        u.ctx.fill();
      });
    }
  }

  // Value against KL in the order of training: uPlot has the axes and the cursor, the dots are drawn over them.
  function path(chart, { all }) {
    const series = [{}], tables = [], owners = [];
    for (const line of chart.lines) {
      const order = line.x.map((x, k) => k).sort((a, b) => line.x[a] - line.x[b]);
      const pick = (values) => order.map((k) => values[k]);
      owners.push({ line, index: series.length, steps: series.length + 1 });
      const stroke = () => colour(`c${line.colour}`);
      series.push({ stroke, paths: () => null, points: { show: false } }, { show: false });
      tables.push([pick(line.x), pick(line.y), pick(line.step)]);
    }
    const range = within(all ? null : chart.x_range, 0.04);
    const y = chart.range && !all ? { range: within(chart.range, 0.04) } : {};
    return { series, owners, data: uPlot.join(tables), scales: { x: { time: false, range }, y },
      axes: axes(chart, chart.x_label),
      where: (x) => `KL ${format(x)}`,
      draw: (u) => chart.lines.forEach((line) => drawPath(u, line)) };
  }

  // The colour is the run's; early dots are faint, the last one is large.
  function drawPath(u, line) {
    const at = line.x.map((x, k) => [u.valToPos(x, "x", true), u.valToPos(line.y[k], "y", true)]);
    const { ctx, bbox } = u;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.beginPath();
    at.forEach(([x, y]) => ctx.lineTo(x, y));
    ctx.strokeStyle = ctx.fillStyle = colour(`c${line.colour}`);
    ctx.globalAlpha = 0.35;
    ctx.stroke();
    at.forEach(([x, y], k) => {
      ctx.globalAlpha = at.length > 1 ? 0.2 + 0.8 * (k / (at.length - 1)) : 1;
      ctx.beginPath();
      ctx.arc(x, y, (k === at.length - 1 ? 5 : 3) * devicePixelRatio, 0, 2 * Math.PI);
      ctx.fill();
    });
    ctx.restore();
  }

  function showValues(figure, plan, u) {
    const { idx, idxs, left } = u.cursor;
    const on = isNumber(idx) && left >= 0;
    figure.querySelector("output").textContent = on ? plan.where(u.data[0][idx]) : "";
    const cells = figure.querySelectorAll(".legend .number");
    plan.owners.forEach(({ index, steps }, k) => {
      const cell = cells[k], near = on ? idxs[index] : null;
      cell.dataset.last ??= cell.textContent;
      if (!isNumber(near)) cell.textContent = cell.dataset.last;
      else if (steps) cell.textContent = `${format(u.data[index][near])} (update ${format(u.data[steps][near])})`;
      else cell.textContent = format(u.data[index][near]) + (near === idx ? "" : ` (at ${format(u.data[0][near])})`);
    });
  }

  function build(figure, chart, view) {
    const target = figure.querySelector(".plot");
    const plan = chart.kind === "path" ? path(chart, view) : curves(chart, view);
    const cursor = { y: false, drag: { x: true, y: true, uni: 40 }, points: { size: 7 } };
    if (chart.kind === "curves") cursor.sync = { key: "updates", scales: ["x", null] };
    target.replaceChildren();
    const { series, scales, axes } = plan;
    return new uPlot({ width: target.clientWidth, height: HEIGHT, series, scales, axes,
      legend: { show: false }, cursor, padding: [8, 12, 0, 0],
      hooks: { draw: [plan.draw], setCursor: [(u) => showValues(figure, plan, u)] } }, plan.data, target);
  }

  function walk(u, event) {
    const last = u.data[0].length - 1, step = event.shiftKey ? 10 : 1, now = u.cursor.idx;
    const next = { Home: 0, End: last,
      ArrowLeft: isNumber(now) ? now - step : last, ArrowRight: isNumber(now) ? now + step : 0 };
    if (event.key === "Escape") u.setCursor({ left: -10, top: -10 });
    else if (event.key in next) {
      event.preventDefault();
      const index = Math.min(last, Math.max(0, next[event.key]));
      u.setCursor({ left: u.valToPos(u.data[0][index], "x"), top: 1 });
    }
  }

  function mount(id, chart) {
    const figure = document.getElementById(id), target = figure.querySelector(".plot");
    const view = { log: false, all: false }, offered = { log: chart.log, all: chart.range || chart.x_range };
    const shown = { plot: build(figure, chart, view) };
    drawn.push(shown);
    target.tabIndex = 0;
    target.setAttribute("role", "img");
    const title = figure.querySelector(".name").textContent;
    target.setAttribute("aria-label", `Chart: ${title}. Arrow keys read its values.`);
    target.addEventListener("keydown", (event) => walk(shown.plot, event));
    new ResizeObserver(() => {
      const width = target.clientWidth;
      if (width && width !== shown.plot.width) shown.plot.setSize({ width, height: HEIGHT });
    }).observe(target);
    for (const name of Object.keys(view)) {
      const button = figure.querySelector(`button.${name}`);
      button.hidden = !offered[name];
      button.addEventListener("click", () => {
        view[name] = !view[name];
        button.setAttribute("aria-pressed", String(view[name]));
        shown.plot.destroy();
        shown.plot = build(figure, chart, view);
      });
    }
  }

  const redraw = () => drawn.forEach(({ plot }) => plot.redraw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("beforeprint", () => {
    root.dataset.paper = "";
    document.querySelectorAll("details:not([open])").forEach((item) => {
      item.dataset.folded = "";
      item.open = true;
    });
    redraw();
  });
  addEventListener("afterprint", () => {
    delete root.dataset.paper;
    document.querySelectorAll("details[data-folded]").forEach((item) => {
      delete item.dataset.folded;
      item.open = false;
    });
    redraw();
  });
  const charts = JSON.parse(document.getElementById("chart-data").textContent);
  Object.entries(charts).forEach(([id, chart]) => mount(id, chart));
})();
