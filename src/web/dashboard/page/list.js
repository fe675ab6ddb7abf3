// The view of all apps: a table with a filter and a sort order.

import { isNew, rank, severity } from "./conditions.js";
import { changesOf, crawlBar, h, number, percent, pill, table, time } from "./elements.js";
import { words } from "./words.js";

/** The minimum number of apps for which the list has a filter. */
const MIN_FILTERED_APPS = 6;
const CRAWLS = 24;

const byName = (a, b) => (a.app < b.app ? -1 : a.app > b.app ? 1 : 0);
const by = (value) => (a, b) => value(a) - value(b);
/** A time that is absent comes first. */
const moment = (value) => (value ? Date.parse(value) : 0);
const ORDERS = {
  condition: by(rank),
  name: () => 0,
  live: by((app) => -app.live_count),
  missing: by((app) => -app.missing_count),
  complete: by((app) => moment(app.last_complete_crawl_at)),
  next: by((app) => (app.next_crawl_at ? moment(app.next_crawl_at) : Infinity)),
};

/** The choices of the reader. They last until the page is closed. */
const chosen = { text: "", attention: false, order: "condition" };

export class AppList {
  constructor({ announce, replaceChildren }) {
    Object.assign(this, { announce, replaceChildren });
    this.shown = "";
    this.bars = new Map();
    this.apps = [];
    this.controls = this.makeControls();
    this.box = h("div", {});
    this.element = h("section", { "aria-labelledby": "apps-title" }, h("div", { class: "bar" }, h("h2", { id: "apps-title" }, words.apps), this.controls), this.box);
  }

  makeControls() {
    const filter = h("input", { id: "filter", type: "search", "aria-label": words.filterLabel, placeholder: words.filterLabel, autocomplete: "off", spellcheck: "false", input: (event) => { chosen.text = event.currentTarget.value; this.refresh(); } });
    filter.value = chosen.text;
    this.attention = h("button", { type: "button", "aria-pressed": String(chosen.attention), click: (event) => {
      chosen.attention = !chosen.attention;
      event.currentTarget.setAttribute("aria-pressed", String(chosen.attention));
      this.refresh();
    } });
    const order = h("select", { id: "order", change: (event) => { chosen.order = event.currentTarget.value; this.refresh(); } },
      Object.keys(ORDERS).map((name) => h("option", { value: name, selected: name === chosen.order }, words.orders[name])));
    return h("div", { class: "controls", role: "group", "aria-label": words.listControls }, filter, this.attention, h("span", {}, h("label", { for: "order" }, words.order), " ", order));
  }

  refresh() {
    this.render();
    this.announce(words.appsShown(this.matching().length, this.apps.length));
  }

  show(apps) {
    const state = JSON.stringify(apps);
    if (state === this.shown) return;
    this.shown = state;
    this.apps = apps;
    this.render();
  }

  matching() {
    const text = chosen.text.trim().toLowerCase();
    return this.apps.filter((app) => (!chosen.attention || app.needs_attention) && (app.app.includes(text) || String(app.sdk_app_id ?? "").includes(text)));
  }

  render() {
    this.controls.hidden = this.apps.length < MIN_FILTERED_APPS;
    if (this.apps.length === 0) {
      this.replaceChildren(this.box, h("p", { class: "empty" }, words.noApps), h("p", { class: "quiet" }, words.noAppsMore));
      return;
    }
    this.attention.textContent = words.onlyAttention(this.apps.filter((app) => app.needs_attention).length);
    const apps = this.controls.hidden ? [...this.apps] : this.matching();
    if (apps.length === 0) {
      this.replaceChildren(this.box, h("p", { class: "empty" }, words.noAppMatches));
      return;
    }
    apps.sort((a, b) => ORDERS[chosen.order](a, b) || byName(a, b));
    const columns = [
      { name: words.app }, { name: words.state }, { name: words.lastCrawls }, { name: words.live, number: true }, { name: words.missing, number: true },
      { name: words.lastComplete }, { name: words.nextCrawl },
    ];
    const sum = (field) => apps.reduce((total, app) => total + app[field], 0);
    const totals = apps.length < 2 ? null : [words.totalOf(apps.length), "", "", number(sum("live_count")), missingCell(sum("missing_count"), sum("held_count")), "", ""];
    this.replaceChildren(this.box, table(words.apps, columns, apps.map((app) => this.row(app)), { class: "cards apps" }, totals));
  }

  row(app) {
    const link = app.sdk_app_id === null ? app.app : h("a", { href: `#/${app.sdk_app_id}`, id: `app-${app.sdk_app_id}` }, app.app);
    return [
      h("span", {}, link, " ", app.sdk_app_id === null ? null : h("small", {}, app.sdk_app_id)),
      h("span", { class: "pills" }, statePills(app)),
      this.bar(app),
      h("span", {}, number(app.live_count), note(changesOf(app, "live_count")), quotaNote(app)),
      missingCell(app.missing_count, app.held_count),
      app.last_complete_crawl_at ? time(app.last_complete_crawl_at, { live: true }) : words.never,
      nextCrawl(app),
    ];
  }

  /** Returns the bar of an app's crawls. A new bar is created only if there is a new crawl. */
  bar(app) {
    const content = JSON.stringify(app.recent_crawls);
    const known = this.bars.get(app.app);
    if (known?.content === content) return known.bar;
    const bar = crawlBar(app.recent_crawls, CRAWLS);
    this.bars.set(app.app, { content, bar });
    return bar;
  }

  remove() {}
}

const note = (text) => (text ? h("span", { class: "note" }, text) : null);

function quotaNote(app) {
  if (app.group_quota === null || app.month_peak_groups === null) return null;
  return note(words.ofQuota(percent(app.month_peak_groups, app.group_quota)));
}

/** Returns the number of missing groups, and how many of them are withheld. */
function missingCell(missing, held) {
  if (missing === 0) return "0";
  return h("span", {}, h("strong", {}, number(missing)), held > 0 ? note(words.heldPart(held)) : null);
}

/** Returns the pills of an app's state: its condition, and a running crawl. */
export function statePills(app) {
  const running = app.running_crawl && app.running_crawl.step !== "waiting_for_lease" && app.condition !== "retrying";
  const first = isNew(app) && running && app.condition === "never_crawled";
  return [
    first ? pill("busy", words.firstCrawl) : pill(severity(app), words.conditions[app.condition]),
    running && !first ? pill("busy", words.crawling) : null,
  ];
}

/** Returns the time of the next crawl, or since when a crawl that has not started is overdue. */
export function nextCrawl(app, { prefix = words.retry } = {}) {
  if (!app.next_crawl_at) return "–";
  if (app.overdue_since) return h("span", { class: "late" }, words.overdue, " ", time(app.overdue_since, { live: true }));
  return h("span", {}, app.last_crawl_status === "failed" && prefix ? `${prefix} ` : "", time(app.next_crawl_at, { live: true, due: words.dueNow }));
}
