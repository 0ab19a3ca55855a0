"use strict";
// Runs charts.js on a page of stand-ins: node charts_in_node.js uPlot.js charts.js < chart-data. Prints, as JSON, what
// uPlot was given for each chart, and what its figure says after a few moves of the cursor.
const fs = require("fs"), vm = require("vm");
const [library, script] = process.argv.slice(2).map((path) => fs.readFileSync(path, "utf-8"));
const chartData = fs.readFileSync(0, "utf-8");
const handlers = {};

class Element {
  constructor(children = {}) {
    Object.assign(this, { children, dataset: {}, attributes: {}, on: {}, textContent: "", clientWidth: 400 });
  }
  querySelector(selector) { return this.children[selector]; }
  querySelectorAll(selector) { return this.children[selector] || []; }
  setAttribute(name, value) { this.attributes[name] = value; }
  getAttribute(name) { return this.attributes[name] ?? null; }
  addEventListener(name, act) { this.on[name] = act; }
  replaceChildren() {}
}

const figures = Object.fromEntries(Object.entries(JSON.parse(chartData)).map(([id, chart]) => {
  const cells = chart.lines.map((line, k) => Object.assign(new Element(), { textContent: `last ${k}` }));
  return [id, new Element({
    ".plot": new Element(), "button.log": new Element(), "button.all": new Element(), ".name": new Element(), output: new Element(),
    ".legend .number": cells })];
}));
const page = vm.createContext({
  console, devicePixelRatio: 1, getComputedStyle: () => ({ getPropertyValue: (name) => `(${name})` }),
  document: { documentElement: new Element(), querySelectorAll: () => [],
    getElementById: (id) => (id === "chart-data" ? { textContent: chartData } : figures[id]) },
  matchMedia: () => ({ addEventListener() {} }), addEventListener: (name, act) => { handlers[name] = act; },
  ResizeObserver: class { observe() {} },
});
vm.runInContext(library + "\nvar real = uPlot;", page);

// uPlot without a canvas: it keeps what it was given and moves its cursor to the nearest known point of each series.
class Plot {
  constructor(options, data) {
    Object.assign(this, { options, data, width: options.width, cursor: { left: -10, idxs: [] } });
    Plot.made.push(this);
  }
  static made = [];
  static join(...tables) { return page.real.join(...tables); }
  setCursor({ left }) {
    const idx = left < 0 ? null : this.data[0].indexOf(left);
    const nearest = (values) => values.map((value, k) => k).filter((k) => values[k] !== undefined)
      .sort((a, b) => Math.abs(a - idx) - Math.abs(b - idx))[0] ?? null;
    Object.assign(this.cursor, { left, idx, idxs: this.data.map((values) => (idx === null ? null : nearest(values))) });
    this.options.hooks.setCursor.forEach((act) => act(this));
  }
  valToPos(value) { return value; }
  destroy() { this.destroyed = true; }
}
page.uPlot = Plot;
vm.runInContext(script, page);

// The range of each axis for data from -1000 to 1000, for a view of 1 to 2, and for one of far values alone.
function views({ options: { scales } }) {
  const of = ({ range }) => (range ? [[-1000, 1000], [1, 2], [900, 1000]].map(([low, high]) => range(null, low, high)) : null);
  return { x: of(scales.x), y: of(scales.y) };
}
function viewsOfAll(figure) {
  const button = figure.children["button.all"];
  button.on.click();
  const found = views(Plot.made.at(-1));
  button.on.click();
  return [found, button.attributes["aria-pressed"]];
}
const say = ({ children }) => [children.output, ...children[".legend .number"]].map((element) => element.textContent);
const result = Object.entries(figures).map(([id, figure], k) => {
  const plot = Plot.made[k], press = (key) => figure.children[".plot"].on.keydown({ key, preventDefault() {} });
  const gaps = plot.data.map((values) => Array.from(values, (value) => (value === undefined ? "none" : value)));
  const filters = plot.options.series.map(({ points }) => points?.filter?.(plot, 1, false) ?? null);
  const moves = ["Home", "ArrowRight", "End", "ArrowRight", "Escape"].map((key) => { press(key); return say(figure); });
  const dots = plot.options.series.map(({ points }) => points?.show ?? null);
  const marks = [], discs = [];
  const ctx = new Proxy({}, { get: (of, name) => (of[name] ?? (name === "moveTo" ? (x) => marks.push(x)
    : name === "arc" ? (x, y, radius) => discs.push([x, of.fillStyle, Number(of.globalAlpha.toFixed(2)), radius]) : () => {})) });
  Object.assign(plot, { ctx, bbox: { left: 0, top: 0, width: 100, height: 100 } });
  plot.options.hooks.draw.forEach((act) => act(plot));
  return { id, data: gaps, dots, marks, discs, lonely: filters[1], moves,
    labels: plot.options.axes.map(({ label }) => label), noLog: figure.children["button.log"].hidden,
    noAll: figure.children["button.all"].hidden, views: views(plot), viewsOfAll: viewsOfAll(figure) };
});
const button = Object.values(figures)[0].children["button.log"];
button.on.click();
const pressed = Plot.made.at(-1).options.scales.y;
button.on.click();
console.log(JSON.stringify({ charts: result, pressed, released: Plot.made.at(-1).options.scales.y,
  destroyed: Plot.made[0].destroyed, handlers: Object.keys(handlers) }));
