// Creates elements, and formats times and numbers. Data from the database becomes text, never HTML.

import { locale, words } from "./words.js";

/**
 * Returns an element with attributes, listeners (attributes that are functions) and children
 * (elements or texts).
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const integers = new Intl.NumberFormat(locale);
const short = new Intl.NumberFormat(locale, { notation: "compact", maximumFractionDigits: 1 });
const moments = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "medium" });
const minutes = new Intl.DateTimeFormat(locale, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const relative = new Intl.RelativeTimeFormat(locale, { numeric: "always", style: "short" });

export const number = (value) => (value === null || value === undefined ? "–" : integers.format(value));
export const compact = (value) => short.format(value);
export const signed = (value, sign) => (value === 0 ? "0" : sign + integers.format(value));
/** Formats a difference with its sign. */
export const difference = (value) => (value === 0 ? "±0" : (value > 0 ? "+" : "−") + integers.format(Math.abs(value)));
export const percent = (part, entire) => new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: 0 }).format(Math.floor((part / entire) * 100) / 100);

/** Milliseconds by which the server's clock is ahead of the browser's. */
let serverAhead = 0;
export function setServerTime(date) {
  const server = Date.parse(date ?? "");
  // The header has whole seconds, so a difference below two seconds means nothing.
  if (Number.isFinite(server)) serverAhead = Math.abs(server - Date.now()) < 2000 ? 0 : server - Date.now();
}
export const now = () => Date.now() + serverAhead;

const STEPS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

/** Formats a time relative to now, in its largest unit. */
export function ago(time) {
  const seconds = Math.round((Date.parse(time) - now()) / 1000);
  if (Math.abs(seconds) < 2) return words.justNow;
  const [unit, length] = STEPS.find(([, length]) => Math.abs(seconds) >= length) ?? STEPS[3];
  return relative.format(Math.trunc(seconds / length), unit);
}

/**
 * Returns a time element. With `live` it shows the time relative to now, and is updated every
 * second. A time in the past is shown as `due`, if that is given.
 */
export function time(value, { live = false, due = null } = {}) {
  if (!value) return h("span", {}, "–");
  const date = new Date(value);
  const element = h("time", { datetime: value, title: `${moments.format(date)} · ${value}`, "data-live": live, "data-due": due });
  element.textContent = live ? liveText(element) : minutes.format(date);
  return element;
}

function liveText(element) {
  return element.dataset.due && Date.parse(element.dateTime) <= now() ? element.dataset.due : ago(element.dateTime);
}

/** Updates the text of all relative times. */
export function updateRelativeTimes() {
  for (const element of document.querySelectorAll("time[data-live]")) {
    const text = liveText(element);
    if (element.textContent !== text) element.textContent = text;
  }
}

export function duration(from, to) {
  const seconds = Math.max(0, Math.round((Date.parse(to) - Date.parse(from)) / 1000));
  if (seconds < 60) return words.seconds(seconds);
  if (seconds < 3600) return words.minutes(Math.floor(seconds / 60), seconds % 60);
  return words.hours(Math.floor(seconds / 3600), Math.floor((seconds % 3600) / 60));
}

/** Returns the display name of a group type, or of the unknown type if it is null. */
export function typeName(type, known) {
  if (type === null || type === undefined) return words.unknownType;
  const found = known?.find((one) => one.group_type === type);
  return words.typeName(type, found?.sdk_name ?? null, found?.name_zh ?? null);
}

const dates = new Intl.DateTimeFormat(locale, { month: "short", day: "numeric", timeZone: "UTC" });

/**
 * Returns how a figure changed since two earlier days, as in `change_since_yesterday` and
 * `change_since_last_week`; or null if neither day has a value.
 */
export function changesOf(app, field, format = difference) {
  const parts = [[app.change_since_yesterday, 1, words.sinceYesterday], [app.change_since_last_week, 7, words.sinceLastWeek]]
    .filter(([change], at, all) => change && change[field] !== null && (at === 0 || change.since !== all[0][0]?.since))
    .map(([change, days, name]) => {
      const newest = app.last_crawl?.day;
      const exact = newest && Date.parse(newest) - Date.parse(change.since) === days * 86400000;
      return words.changed(format(change[field]), exact ? name : words.sinceDay(dates.format(new Date(change.since))));
    });
  return parts.length > 0 ? parts.join(" · ") : null;
}

/** Returns the outcome of a crawl: its status, or "withheld". */
export const outcomeOf = (crawl) => (crawl.deletions === "withheld" ? "withheld" : crawl.status);

/**
 * Returns the last crawls as a bar of cells, newest last. A taller cell is a worse outcome, so the
 * colours are not needed to read it.
 */
export function crawlBar(crawls, length) {
  const shown = crawls.slice(-length);
  const empty = Array.from({ length: length - shown.length }, () => h("span", { class: "cell" }));
  const cells = shown.map((crawl) => h("span", {
    class: `cell ${outcomeOf(crawl)}`,
    title: `${words.crawlName(crawl.crawl_id)} · ${minutes.format(new Date(crawl.started_at))} · ${outcomeText(crawl)}`,
  }));
  return h("span", { class: "cells", role: "img", "aria-label": barText(shown) }, empty, cells);
}

function outcomeText(crawl) {
  const reason = words.reasons[crawl.reason_code];
  return words.outcomes[outcomeOf(crawl)] + (reason ? words.inBrackets(reason) : "");
}

function barText(crawls) {
  if (crawls.length === 0) return words.noCrawlsYet;
  const counts = Object.keys(words.outcomes)
    .map((outcome) => [outcome, crawls.filter((crawl) => outcomeOf(crawl) === outcome).length])
    .filter(([, count]) => count > 0)
    .map(([outcome, count]) => `${integers.format(count)} ${words.outcomes[outcome]}`);
  return words.barText(crawls.length, counts.join(words.comma), outcomeText(crawls.at(-1)));
}

/**
 * Returns a table. With the class "cards" it becomes a list of cards on narrow screens. The roles
 * are explicit, because the styles of cards remove them. Columns are { name, number, wide }, rows
 * are arrays of cells. `totals` is a row for the foot of the table, or null.
 */
export function table(caption, columns, rows, attributes = {}, totals = null) {
  const head = columns.map((column) => h("th", { scope: "col", role: "columnheader", class: column.number ? "number" : null }, column.name));
  const row = (cells) =>
    h("tr", { role: "row" }, cells.map((cell, at) => {
      const column = columns[at];
      const name = at === 0 ? "th" : "td";
      return h(name, {
        scope: at === 0 ? "row" : null,
        role: at === 0 ? "rowheader" : "cell",
        class: [column.number ? "number" : "", column.wide ? "wide" : ""].join(" ").trim() || null,
        "data-label": column.name,
      }, cell);
    }));
  return h("table", { role: "table", ...attributes },
    h("caption", { class: "visually-hidden" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)),
    h("tbody", { role: "rowgroup" }, rows.map(row)),
    totals ? h("tfoot", { role: "rowgroup" }, row(totals)) : null);
}

export function pill(kind, text) {
  return h("span", { class: `pill ${kind}` }, text);
}
