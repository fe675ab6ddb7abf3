// The charts. uPlot draws the plot. The rest is HTML: a key, whose buttons show and hide the
// series, and a table of the same numbers.

import { compact, h, number, table, typeName } from "./elements.js";
import { lang, locale, words } from "./words.js";

/* global uPlot */

const DAY = 86400;
const days = new Intl.DateTimeFormat(locale, { month: "short", day: "numeric" });
const months = new Intl.DateTimeFormat(locale, { year: "numeric", month: "short" });
const clock = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const seconds = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const moments = new Intl.DateTimeFormat(locale, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

const dark = matchMedia("(prefers-color-scheme: dark)");
const charts = new Set();
dark.addEventListener("change", () => charts.forEach((chart) => chart.draw()));

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * Returns the start of a day in the browser's time zone, in seconds. The day itself is of the
 * schedule's time zone.
 */
const dayToSeconds = (day) => {
  const [year, month, date] = day.split("-").map(Number);
  return new Date(year, month - 1, date).getTime() / 1000;
};

/**
 * Intervals between the labels of the time axis, in seconds: at least a day on charts of days. A
 * month is 28 days or more to the chart library.
 */
const CLOCK_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200];
const DAY_STEPS = [1, 2, 3, 4, 5, 7, 10, 14, 30, 60, 91, 182, 365].map((days) => days * DAY);
/** The shortest spans that the time axis shows, in seconds. Younger services have fewer points. */
const SHORTEST_SPAN = { days: 7 * DAY, crawls: 3600 };

function label(at, step) {
  const date = new Date(at * 1000);
  if (step >= 28 * DAY) return months.format(date);
  if (step >= DAY || (date.getHours() === 0 && date.getMinutes() === 0)) return days.format(date);
  return step >= 60 ? clock.format(date) : seconds.format(date);
}

/**
 * A chart of series over time.
 * - `points`: the times, in seconds since 1970, ascending.
 * - `series`: an array of { name, color (a CSS variable), values, dash, width }.
 * - `kind`: "lines", or "bars" for positive and negative changes.
 * - `unit`: "days" or "crawls". Each point is the time of one day or one crawl.
 * - `formatTime`: formats one of the `points`.
 */
class Chart {
  constructor({ title, note, points, series, kind, unit, formatTime, firstColumn }) {
    Object.assign(this, { points, series, kind, unit, formatTime });
    this.shown = series.map(() => true);
    this.plotBox = h("div", { class: "plot", "aria-hidden": "true" });
    this.selectedTime = h("p", { class: "read", "aria-hidden": "true" });
    this.values = series.map(() => h("span", { class: "value" }));
    const key = h("ul", { class: "key", "aria-label": words.chartKeys }, series.map((one, at) => {
      const swatch = h("span", { class: "swatch", "aria-hidden": "true" });
      swatch.style.background = `var(${one.color})`;
      return h("li", {}, h("button", { type: "button", "aria-pressed": "true", click: (event) => this.toggle(at, event.currentTarget) },
        swatch, h("span", { class: "name" }, one.name), this.values[at]));
    }));
    const rows = h("details", { class: "rows", toggle: (event) => this.fillTable(event.currentTarget, title, firstColumn) }, h("summary", {}, words.asTable));
    this.element = h("figure", { class: "chart", "aria-label": title },
      h("figcaption", {}, h("h3", {}, title), note ? h("span", { class: "note" }, note) : null, this.selectedTime),
      this.plotBox, key, rows);
    this.showValues(null);
    this.watch = new ResizeObserver(() => this.resize());
    this.watch.observe(this.plotBox);
    charts.add(this);
  }

  remove() {
    this.watch.disconnect();
    this.plot?.destroy();
    charts.delete(this);
  }

  resize() {
    const width = Math.floor(this.plotBox.clientWidth);
    if (width === 0) return;
    if (!this.plot) this.draw();
    else if (width !== this.plot.width) this.plot.setSize({ width, height: this.height() });
  }

  height() {
    return this.plotBox.clientWidth < 480 ? 190 : 240;
  }

  toggle(at, button) {
    this.shown[at] = !this.shown[at];
    button.setAttribute("aria-pressed", String(this.shown[at]));
    this.plot?.setSeries(at + 1, { show: this.shown[at] });
  }

  /** Shows the values at a point, or the latest values if `at` is null. */
  showValues(at) {
    const last = this.points.length - 1;
    const where = at ?? last;
    this.selectedTime.textContent = where >= 0 ? this.formatTime(this.points[where]) : "";
    this.series.forEach((one, index) => {
      let value = one.values[where];
      // A type that the latest crawl did not list keeps its previous value.
      for (let back = where; at === null && value === null && back > 0; back -= 1) value = one.values[back - 1];
      this.values[index].textContent = number(value === null || value === undefined ? null : Math.abs(value));
    });
  }

  fillTable(details, title, firstColumn) {
    if (!details.open || details.querySelector("table")) return;
    const columns = [{ name: firstColumn }, ...this.series.map((one) => ({ name: one.name, number: true }))];
    const rows = this.points.map((point, at) => [this.formatTime(point), ...this.series.map((one) => {
      const value = one.values[at];
      return number(value === null ? null : Math.abs(value));
    })]).reverse();
    details.append(h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, table(title, columns, rows, { class: "plain" })));
  }

  draw() {
    const width = Math.floor(this.plotBox.clientWidth);
    if (width === 0) return;
    this.plot?.destroy();
    const bars = this.kind === "bars";
    const axis = { stroke: color("--quiet"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1, size: 4 }, font: `12px ${color("--font") || "sans-serif"}` };
    const narrow = width < 480;
    const range = timeRange(this.points, this.unit, bars);
    const options = {
      width,
      height: this.height(),
      // The label of the last tick is centred, so it needs room on the right.
      padding: [10, 34, 0, 0],
      legend: { show: false },
      cursor: { y: false, points: { show: !bars }, drag: { x: false, y: false }, sync: { key: "time" } },
      scales: {
        x: { time: true, range: () => range },
        y: { range: (_plot, from, to) => (bars ? symmetricRange(from, to) : [0, to > 0 ? to * 1.06 : 1]) },
      },
      axes: [
        { ...axis, size: 34, space: lang === "zh" ? 84 : narrow ? 74 : 64, incrs: this.unit === "days" ? DAY_STEPS : [...CLOCK_STEPS, ...DAY_STEPS], splits: this.unit === "days" ? dayTicks : undefined, values: (_plot, at, _axis, _space, step) => at.map((one) => label(one, step)) },
        { ...axis, size: 56, space: 36, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7, 5e7], values: (_plot, at) => at.map((one) => compact(Math.abs(one))) },
      ],
      series: [{}, ...this.series.map((one, at) => ({
        label: one.name,
        show: this.shown[at],
        stroke: color(one.color),
        width: bars ? 0 : one.width ?? 2,
        dash: one.dash,
        fill: bars ? color(one.color) : undefined,
        paths: bars ? uPlot.paths.bars({ size: [0.7, 28], align: 0 }) : undefined,
        points: { show: !bars && this.points.length < 40, size: 5 },
        spanGaps: true,
      }))],
      hooks: { setCursor: [(plot) => this.showValues(plot.cursor.idx ?? null)] },
    };
    this.plot = new uPlot(options, [this.points, ...this.series.map((one) => one.values)], this.plotBox);
  }
}

/**
 * Returns the range of the time axis: that of the points, but at least the shortest span. The last
 * point stays on the right.
 */
function timeRange(points, unit, bars) {
  const margin = bars ? DAY / 2 : 0;
  const to = points.at(-1);
  return [Math.min(points[0], to - SHORTEST_SPAN[unit]) - margin, to + margin];
}

/** Returns the ticks of a chart of days: midnights in the browser's time zone, newest first. */
function dayTicks(plot, _axis, from, to, step) {
  const ticks = [];
  const date = new Date(plot.data[0].at(-1) * 1000);
  while (date.getTime() / 1000 >= from) {
    if (date.getTime() / 1000 <= to) ticks.unshift(date.getTime() / 1000);
    date.setDate(date.getDate() - Math.round(step / DAY));
  }
  return ticks;
}

/**
 * Returns the range of the y axis: symmetric around zero if there are positive and negative values.
 */
function symmetricRange(from, to) {
  const most = Math.max(Math.abs(from ?? 0), Math.abs(to ?? 0), 1) * 1.1;
  return [(from ?? 0) < 0 ? -most : 0, (to ?? 0) > 0 ? most : 0];
}

const COLORS = 7;
const DASHES = [undefined, undefined, undefined, [6, 3], [2, 3], [8, 3, 2, 3], [1, 3]];

/** Returns a series for each type in the rows, in the order of the app's types. */
function seriesByType(known, rows, keyOf, valueOf, keys) {
  const present = new Set(rows.map((row) => row.group_type));
  const order = [...known.map((one) => one.group_type), ...present].filter((type, at, all) => all.indexOf(type) === at && present.has(type));
  return order.map((type, at) => {
    const values = new Map(rows.filter((row) => row.group_type === type).map((row) => [keyOf(row), valueOf(row)]));
    return { name: typeName(type, known), color: `--series-${at % COLORS}`, dash: DASHES[at % COLORS], values: keys.map((key) => values.get(key) ?? null) };
  });
}

/**
 * Returns the series of the listed groups and of TotalCount. Leaves out a series without values.
 * The line of TotalCount is dashed, so that the line under it is visible if both are equal.
 */
function totals(listed, counted) {
  return [
    { name: words.total, color: "--text", width: 2, values: listed },
    { name: words.totalCount, color: "--total-count", width: 3, dash: [3, 7], values: counted },
  ].filter((one) => one.values.some((value) => value !== null));
}

/** Returns the sum of a field of the rows of each key, or null for a key without a value. */
function sums(rows, keyOf, field, keys) {
  const sums = new Map();
  for (const row of rows) {
    if (row[field] !== null) sums.set(keyOf(row), (sums.get(keyOf(row)) ?? 0) + row[field]);
  }
  return keys.map((key) => sums.get(key) ?? null);
}

/**
 * Returns a chart of the live groups and TotalCounts at the end of each day, from `daily_counts`,
 * or null without counts.
 */
export function liveByDay(known, counts) {
  const keys = [...new Set(counts.map((row) => row.day))].sort();
  if (keys.length === 0) return null;
  const dayOf = (row) => row.day;
  const types = seriesByType(known, counts, dayOf, (row) => row.live_groups, keys);
  const all = totals(types.length > 1 ? sums(counts, dayOf, "live_groups", keys) : [], sums(counts, dayOf, "total_count", keys));
  return new Chart({ title: words.liveChart, note: words.liveChartDays, points: keys.map(dayToSeconds), series: [...types, ...all], kind: "lines", unit: "days", formatTime: (at) => dayName(at), firstColumn: words.day });
}

/**
 * Returns a chart of the groups that each crawl listed, from `type_counts` and `app_counts`, or
 * null without counts.
 */
export function liveByCrawl(known, typeCounts, appCounts) {
  const complete = typeCounts.filter((row) => row.verdict === "exact" || row.verdict === "moving");
  const counted = appCounts.filter((row) => row.total_count !== null && row.listed_count > 0);
  const times = new Map();
  for (const row of [...complete, ...counted]) {
    const at = Math.floor(Date.parse(row.recorded_at) / 1000);
    times.set(row.crawl_id, Math.max(times.get(row.crawl_id) ?? 0, at));
  }
  const crawls = [...times.keys()].sort((a, b) => a - b);
  if (crawls.length === 0) return null;
  // uPlot needs ascending times, but a clock may have been set back between two crawls.
  const points = [];
  for (const crawl of crawls) points.push(Math.max(times.get(crawl), (points.at(-1) ?? 0) + 1));
  const idOf = (row) => row.crawl_id;
  const types = seriesByType(known, complete, idOf, (row) => row.listed_count, crawls);
  const all = totals(types.length === 1 ? [] : sums(counted, idOf, "listed_count", crawls), sums(counted, idOf, "total_count", crawls));
  return new Chart({ title: words.liveChart, note: words.liveChartCrawls, points, series: [...types, ...all], kind: "lines", unit: "crawls", formatTime: (at) => moments.format(new Date(at * 1000)), firstColumn: words.moment });
}

/**
 * Returns a chart of the groups that appeared and vanished each day, from `daily_counts`, or null
 * if there were none.
 */
export function changesByDay(counts) {
  const keys = [...new Set(counts.map((row) => row.day))].sort();
  if (!counts.some((row) => row.appeared + row.vanished > 0)) return null;
  const sums = new Map(keys.map((day) => [day, { appeared: 0, vanished: 0 }]));
  for (const row of counts) {
    const sum = sums.get(row.day);
    sum.appeared += row.appeared;
    sum.vanished += row.vanished;
  }
  const series = [
    { name: words.appeared, color: "--appeared", values: keys.map((day) => sums.get(day).appeared) },
    { name: words.vanished, color: "--vanished", values: keys.map((day) => -sums.get(day).vanished) },
  ];
  return new Chart({ title: words.changeChart, note: null, points: keys.map(dayToSeconds), series, kind: "bars", unit: "days", formatTime: (at) => dayName(at), firstColumn: words.day });
}

const dayNames = new Intl.DateTimeFormat(locale, { dateStyle: "medium" });
const dayName = (at) => dayNames.format(new Date(at * 1000));
