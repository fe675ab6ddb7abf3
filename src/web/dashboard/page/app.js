// The view of one app: its running crawl, its groups and their history, its crawls, its events, and
// a search for one group. Each poll updates the state at the top. The charts and lists are loaded
// again when a crawl has ended.

import { isQuotaNear, reasonOf } from "./alerts.js";
import { changesByDay, liveByCrawl, liveByDay } from "./charts.js";
import { changesOf, crawlBar, difference, duration, h, number, outcomeOf, percent, pill, signed, table, time, typeName } from "./elements.js";
import { nextCrawl, statePills } from "./list.js";
import { words } from "./words.js";

/** The number of rows that a list shows first, and adds for each click on "Older". */
const PAGE_SIZE = 15;
/** The number of groups that a search shows first, and adds for each click on "Show more". */
const MATCHES_PER_PAGE = 20;
/** The maximum of `more_count` in answers: the API stops counting the remaining groups there. */
const MAX_COUNTED = 1000;
const CRAWLS = 24;
const RANGES = ["crawls", "30", "90", "365"];

const EVENT_KINDS = { appeared: "up", vanished: "down", reappeared: "up", retyped: "turn", undeleted: "turn" };

export class AppView {
  constructor(sdkAppId, { fetchJson, announce, replaceChildren, describeProgress }) {
    this.sdkAppId = sdkAppId;
    this.base = `api/apps/${sdkAppId}`;
    Object.assign(this, { fetchJson, announce, replaceChildren, describeProgress });
    this.charts = [];
    this.types = [];
    this.range = null;
    this.group = null;
    this.back = h("p", { class: "back" });
    this.head = h("div", { class: "head" });
    this.past = h("div", { class: "past" });
    this.running = h("section", { class: "running", hidden: true });
    this.tiles = h("dl", { class: "tiles" });
    this.typeTable = h("div", {});
    this.chartBox = h("div", { class: "charts" });
    this.ranges = this.rangePicker();
    this.crawls = new List(this, "crawls", words.crawls, (rows) => this.crawlTable(rows), () => this.whenCrawled(words.noCrawls));
    this.events = new List(this, "group_events", words.newestEvents, (rows) => this.eventTable(rows), () => this.whenCrawled(words.noEvents));
    this.found = h("div", { class: "found" });
    this.element = h("div", { class: "app" },
      this.back, this.head, this.past, this.running, this.tiles,
      this.searchForm(), this.found,
      h("section", { "aria-labelledby": "counts-title" }, h("div", { class: "bar" }, h("h2", { id: "counts-title" }, words.groups), this.ranges), this.chartBox, this.typeTable),
      this.crawls.element, this.events.element);
  }

  remove() {
    this.charts.forEach((chart) => chart.remove());
  }

  nameOf = (type) => typeName(type, this.types);

  /** Shows the state that a poll returned. */
  show(app, manyApps, group) {
    if (!app) {
      this.head.replaceChildren(h("h2", {}, words.noSuchApp));
      this.element.classList.add("none");
      return;
    }
    this.element.classList.remove("none");
    this.app = app;
    this.showHead(app, manyApps);
    this.showRunning(app.running_crawl);
    this.showTiles(app);
    const lastEnd = String(app.last_crawl?.crawl_id) + app.last_crawl?.vanished + app.last_crawl?.undeleted + app.held_count;
    if (this.loadedFor !== lastEnd) {
      this.loadedFor = lastEnd;
      this.load();
    }
    if (group !== this.group) {
      this.group = group;
      if (group !== null) this.showGroup(group);
      else this.found.replaceChildren();
    }
  }

  showHead(app, manyApps) {
    const state = JSON.stringify([app.app, app.sdk_app_id, app.condition, Boolean(app.running_crawl), manyApps, app.recent_crawls]);
    if (state === this.headShown) return;
    this.headShown = state;
    this.replaceChildren(this.back, ...(manyApps ? [h("a", { href: "#/", id: "all-apps" }, `← ${words.allApps}`)] : []));
    this.replaceChildren(this.head, h("h2", {}, app.app, " ", h("small", {}, words.sdkAppId(app.sdk_app_id))), h("span", { class: "pills" }, statePills(app)));
    this.replaceChildren(this.past, crawlBar(app.recent_crawls, CRAWLS), h("small", {}, words.barNote(app.recent_crawls.length)), legend(app.recent_crawls));
  }

  showRunning(crawl) {
    const panel = this.running;
    panel.hidden = !crawl;
    if (!crawl) {
      panel.replaceChildren();
      this.bar = null;
      return;
    }
    if (!this.bar || this.barOf !== crawl.crawl_id) {
      this.barOf = crawl.crawl_id;
      const title = words.runningTitle(crawl.crawl_id);
      this.bar = h("progress", { "aria-label": title });
      this.barText = h("p", { class: "doing" });
      this.barSum = h("p", { class: "quiet" });
      panel.replaceChildren(
        h("h3", {}, title), this.barText, this.bar, this.barSum,
        h("p", { class: "quiet" }, words.runningSince, " ", time(crawl.started_at, { live: true }), crawl.host ? ` · ${words.runningOn(crawl.host)}` : ""));
    }
    const total = crawl.total_count ?? this.app.live_count;
    if (crawl.listed_count !== null && total > 0) {
      this.bar.max = Math.max(total, crawl.listed_count);
      this.bar.value = crawl.listed_count;
    } else {
      this.bar.removeAttribute("value");
    }
    setText(this.barText, this.describeProgress(crawl, this.nameOf));
    setText(this.barSum, crawl.here ? [words.listedOf(crawl.listed_count, crawl.total_count), words.requests(crawl.requests)].join(" · ") : "");
  }

  showTiles(app) {
    const state = JSON.stringify([
      app.live_count, app.missing_count, app.held_count, app.deleted_count, app.total_count, app.last_complete_crawl_at, app.next_crawl_at, app.overdue_since,
      app.last_crawl, app.change_since_yesterday, app.change_since_last_week, app.month_peak_groups, app.group_quota, app.details,
    ]);
    if (state === this.tilesShown) return;
    this.tilesShown = state;
    const tile = (name, value, notes = [], kind = null) => h("div", { class: kind }, h("dt", {}, name), h("dd", {}, value, notes.filter(Boolean).map((note) => h("span", { class: "note" }, note))));
    const vanished = app.change_since_yesterday?.vanished > 0 ? changesOf({ ...app, change_since_last_week: null }, "vanished", number) : null;
    this.tiles.replaceChildren(
      tile(words.liveGroups, number(app.live_count), [changesOf(app, "live_count")]),
      tile(words.missing, number(app.missing_count), missingNotes(app), app.held_count > 0 ? "alarm" : app.missing_count > 0 ? "warn" : null),
      tile(words.totalCount, number(app.total_count), [listedNote(app), changesOf(app, "total_count")]),
      tile(words.deleted, number(app.deleted_count), [vanished && words.vanishedNote(vanished)]),
      this.peakTile(app, tile),
      app.details ? tile(words.details, number(app.details.groups), [words.partOfLive(app.live_count), words.freshDetails(app.details.fresh_groups)]) : "",
      tile(words.lastComplete, app.last_complete_crawl_at ? time(app.last_complete_crawl_at, { live: true }) : words.never),
      tile(app.last_crawl_status === "failed" ? words.nextAttempt : words.nextCrawl, nextCrawl(app, { prefix: "" }), [], app.overdue_since ? "alarm" : null));
  }

  /** Returns the tile of the month's peak, with its share of the quota. */
  peakTile(app, tile) {
    const { month_peak_groups: peak, group_quota: quota } = app;
    if (peak === null) return "";
    if (quota === null) return tile(words.peak, number(peak), [words.peakNote]);
    const share = words.ofQuotaOf(percent(peak, quota), quota);
    const meter = h("meter", { min: 0, max: quota, high: quota * 0.8, value: Math.min(peak, quota), "aria-label": share });
    return tile(words.peak, number(peak), [meter, share], isQuotaNear(app) ? "warn" : null);
  }

  /** Returns a text of an empty list, and when the next crawl will change that. */
  whenCrawled(text) {
    return this.app.next_crawl_at ? h("span", {}, text, " ", words.nextCrawl, ": ", nextCrawl(this.app)) : text;
  }

  /** Loads everything that changes when a crawl ends. */
  async load() {
    try {
      const { type_status: types } = await this.fetchJson(this.base);
      this.types = types;
      await Promise.all([this.loadCharts(), this.crawls.load(), this.events.load()]);
    } catch {
      // The next poll loads it again.
      this.loadedFor = null;
    }
  }

  showTypes(daily) {
    const types = this.types.filter((one) => one.configured || one.live_count + one.deleted_count > 0);
    const growth = growthByType(daily, this.app.last_crawl?.day);
    const rows = types.map((one) => [
      h("span", {}, this.nameOf(one.group_type), one.configured || one.group_type === null ? null : h("small", {}, ` ${words.notCrawled}`)),
      number(one.live_count), ...growth(one.group_type), one.missing_count > 0 ? h("strong", {}, number(one.missing_count)) : "0",
      number(one.total_count), number(one.deleted_count), one.as_of ? time(one.as_of, { live: true }) : "–",
    ]);
    const columns = [
      { name: words.groupType }, { name: words.live, number: true }, { name: words.sinceYesterday, number: true }, { name: words.sinceLastWeek, number: true },
      { name: words.missing, number: true }, { name: words.totalCount, number: true }, { name: words.deleted, number: true }, { name: words.asOf },
    ];
    this.typeTable.replaceChildren(h("h3", {}, words.types), types.length > 0
      ? table(words.types, columns, rows, { class: "cards types" })
      : h("p", { class: "empty" }, this.whenCrawled(words.noTypes)));
  }

  rangePicker() {
    return h("div", { class: "ranges", role: "group", "aria-label": words.range }, RANGES.map((range) =>
      h("button", { type: "button", "aria-pressed": "false", "data-range": range, click: () => { this.range = range; this.loadCharts(); } }, words.ranges[range])));
  }

  async loadCharts() {
    const days = this.range === null || this.range === "crawls" ? 30 : Number(this.range);
    const { daily_counts: daily } = await this.fetchJson(`${this.base}/daily_counts?limit=${days}`);
    this.showTypes(daily);
    // A new service has few days, so the chart shows its crawls.
    this.range ??= new Set(daily.map((row) => row.day)).size < 4 ? "crawls" : "30";
    const range = this.range;
    const [types, totals] = range === "crawls"
      ? await Promise.all(["type_counts", "app_counts"].map(async (list) => (await this.fetchJson(`${this.base}/${list}?limit=100`))[list]))
      : [[], []];
    if (range !== this.range) return;
    for (const button of this.ranges.children) button.setAttribute("aria-pressed", String(button.dataset.range === range));
    const live = range === "crawls" ? liveByCrawl(this.types, types, totals) : liveByDay(this.types, daily);
    const changes = live && changesByDay(daily);
    const charts = [live, changes].filter(Boolean);
    const open = this.charts.map((chart) => chart.element.querySelector("details").open);
    this.charts.forEach((chart) => chart.remove());
    this.charts = charts;
    const empty = live ? (changes ? null : words.noChanges) : this.whenCrawled(words.noCounts);
    this.chartBox.replaceChildren(...charts.map((chart) => chart.element), ...(empty ? [h("p", { class: "empty" }, empty)] : []));
    charts.forEach((chart, at) => { chart.element.querySelector("details").open = open[at] ?? false; });
  }

  crawlTable(rows) {
    const columns = [
      { name: words.crawl }, { name: words.outcome }, { name: words.started }, { name: words.took, number: true },
      { name: words.listed, number: true }, { name: words.changes }, { name: words.trigger }, { name: words.host }, { name: words.reason, wide: true },
    ];
    const cells = rows.map((crawl) => [
      String(crawl.crawl_id),
      this.outcome(crawl),
      time(crawl.started_at),
      crawl.finished_at ? duration(crawl.started_at, crawl.finished_at) : "–",
      number(crawl.groups_listed),
      changes(crawl),
      words.triggers[crawl.trigger] ?? crawl.trigger,
      h("span", { class: "host" }, crawl.host),
      reasonOf(crawl) ?? "",
    ]);
    return table(words.crawls, columns, cells, { class: "cards crawls" });
  }

  outcome(crawl) {
    if (crawl.status === "running") {
      const runs = this.app.running_crawl?.crawl_id === crawl.crawl_id;
      return pill(runs ? "busy" : "quiet", runs ? words.statuses.running : words.statuses.left_open);
    }
    const kind = { complete: "good", incomplete: "warn", failed: "alarm" }[crawl.status] ?? "quiet";
    const withheld = crawl.deletions === "withheld";
    const deletions = words.deletions[crawl.deletions];
    return h("span", { class: "pills" }, pill(kind, words.statuses[crawl.status] ?? crawl.status),
      withheld ? pill("alarm", `${deletions}: ${number(crawl.withheld)}`) : null,
      crawl.deletions === "approved" ? h("small", {}, deletions) : null);
  }

  eventTable(rows) {
    const columns = [{ name: words.when }, { name: words.event }, { name: words.group }, { name: words.groupType }, { name: words.crawl, number: true }];
    const cells = rows.map((event) => [time(event.occurred_at), this.eventPill(event), this.groupLink(event.group_id), this.eventType(event), String(event.crawl_id)]);
    return table(words.newestEvents, columns, cells, { class: "cards events" });
  }

  eventPill(event) {
    return h("span", { class: `event ${EVENT_KINDS[event.event] ?? ""}` }, words.events[event.event] ?? event.event);
  }

  eventType({ event, old_type: from, new_type: to }) {
    if ((event === "retyped" || event === "reappeared") && from !== null && from !== to) return `${this.nameOf(from)} → ${this.nameOf(to)}`;
    return this.nameOf(to ?? from);
  }

  groupLink(id) {
    return h("a", { class: "id", href: `#/${this.sdkAppId}/group/${encodeURIComponent(id)}` }, id);
  }

  searchForm() {
    const input = h("input", { id: "search", name: "group_id", type: "search", maxlength: "255", autocomplete: "off", spellcheck: "false", required: true });
    return h("form", { class: "search", role: "search", submit: (event) => { event.preventDefault(); this.search(input.value); } },
      h("label", { for: "search" }, words.searchLabel), h("div", {}, input, h("button", { type: "submit" }, words.find)));
  }

  async search(text) {
    const path = `${this.base}/groups?limit=${MATCHES_PER_PAGE}&prefix=${encodeURIComponent(text)}`;
    try {
      const answer = await this.fetchJson(path);
      const { groups } = answer;
      if (groups.length === 1 || groups[0]?.group_id === text) {
        location.hash = `#/${this.sdkAppId}/group/${encodeURIComponent(groups[0].group_id)}`;
        if (this.group === groups[0].group_id) this.showGroup(this.group);
        return;
      }
      const title = groups.length === 0 ? words.noMatch(text) : words.matches(text, groups.length + answer.more_count, answer.more_count >= MAX_COUNTED);
      const list = h("ul", { class: "matches" });
      this.moreMatches = h("p", {});
      this.addMatches(list, answer, path);
      this.found.replaceChildren(h("h3", {}, title), list, this.moreMatches);
      this.announce(title);
    } catch (error) {
      this.found.replaceChildren(h("p", { class: "empty" }, error.status === 400 ? words.badId : words.failedToLoad));
    }
  }

  /** Adds groups that a search found, and a button that loads more of them. */
  addMatches(list, { groups, next_after: next, more_count: more }, path) {
    list.append(...groups.map((group) => h("li", {}, this.groupLink(group.group_id), " ", h("small", {}, this.nameOf(group.group_type)), " ", this.groupState(group))));
    if (more === 0) {
      this.moreMatches.replaceChildren();
      return;
    }
    const load = async () => this.addMatches(list, await this.fetchJson(`${path}&after=${encodeURIComponent(next)}`), path);
    const button = h("button", { type: "button", id: "more-matches", click: () => load().catch(() => this.announce(words.failedToLoad)) }, words.moreGroups(more, more >= MAX_COUNTED));
    this.replaceChildren(this.moreMatches, button);
  }

  groupState(group) {
    if (group.deleted_at) return pill("quiet", words.isDeleted);
    if (group.held) return pill("alarm", words.isHeld);
    if (group.missing_since) return pill("warn", words.isMissing);
    return pill("good", words.isLive);
  }

  async showGroup(id) {
    const close = h("a", { class: "close", href: `#/${this.sdkAppId}` }, words.close);
    try {
      const { group, group_events: events } = await this.fetchJson(`${this.base}/group?limit=100&group_id=${encodeURIComponent(id)}`);
      if (this.types.length === 0) this.types = (await this.fetchJson(this.base)).type_status;
      if (this.group !== id) return;
      const facts = [
        [words.groupType, this.nameOf(group.group_type)],
        [words.firstSeen, h("span", {}, time(group.first_seen_at), group.in_baseline ? h("span", { class: "note" }, words.inBaseline) : null)],
        [words.lastSeen, time(group.last_seen_at)],
        group.missing_since ? [words.missingSince, time(group.missing_since)] : null,
        group.deleted_at ? [words.deletedAt, time(group.deleted_at)] : null,
      ].filter(Boolean);
      const columns = [{ name: words.when }, { name: words.event }, { name: words.groupType }, { name: words.crawl, number: true }];
      const rows = events.map((event) => [time(event.occurred_at), this.eventPill(event), this.eventType(event), String(event.crawl_id)]);
      this.found.replaceChildren(h("article", { class: "group", "aria-label": id },
        h("div", { class: "bar" }, h("h3", {}, h("span", { class: "id" }, group.group_id), " ", this.groupState(group)), close),
        h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
        h("h4", {}, words.history),
        rows.length > 0 ? table(words.history, columns, rows, { class: "plain" }) : h("p", { class: "quiet" }, words.noHistory)));
      this.announce(`${id}: ${this.groupState(group).textContent}`);
    } catch (error) {
      const why = error.status === 404 ? words.noSuchGroup(id) : error.status === 400 ? words.badId : words.failedToLoad;
      this.found.replaceChildren(h("article", { class: "group" }, h("div", { class: "bar" }, h("p", { class: "empty" }, why), close)));
    }
  }
}

/** A list of the API, newest rows first. Older rows are loaded on demand. */
class List {
  constructor(view, name, title, tableOf, emptyText) {
    Object.assign(this, { view, name, title, tableOf, emptyText });
    this.rows = [];
    this.next = null;
    this.box = h("div", {});
    this.more = h("p", {});
    this.element = h("section", { class: name, "aria-labelledby": `${name}-title` }, h("h2", { id: `${name}-title` }, title), this.box, this.more);
  }

  /** Loads the newest rows, as many as are shown. */
  async load() {
    const limit = Math.min(Math.max(PAGE_SIZE, this.rows.length), 200);
    const answer = await this.view.fetchJson(`${this.view.base}/${this.name}?limit=${limit}`);
    this.rows = answer[this.name];
    this.next = answer.next_before;
    this.show();
  }

  async loadOlder() {
    const answer = await this.view.fetchJson(`${this.view.base}/${this.name}?limit=${PAGE_SIZE}&before=${this.next}`);
    this.rows = this.rows.concat(answer[this.name]);
    this.next = answer.next_before;
    this.show();
  }

  show() {
    const id = `older-${this.name}`;
    this.view.replaceChildren(this.box, this.rows.length > 0 ? this.tableOf(this.rows) : h("p", { class: "empty" }, this.emptyText()));
    this.view.replaceChildren(this.more, ...(this.next === null ? [] : [h("button", { type: "button", id, "aria-label": words.olderOf(this.title), click: () => this.loadOlder().catch(() => this.view.announce(words.failedToLoad)) }, words.older)]));
  }
}

/**
 * Returns the notes of the missing groups: how many groups are live, and how many of the missing
 * ones are withheld. If none is withheld, explains why they are missing.
 */
function missingNotes(app) {
  if (app.missing_count === 0) return [];
  return [words.partOfLive(app.live_count), app.held_count > 0 ? h("strong", {}, words.heldPart(app.held_count)) : words.missingNote];
}

/** Returns how many of the app's groups the last crawl listed. */
function listedNote(app) {
  const crawl = app.last_crawl;
  if (app.total_count === null || !crawl || !["complete", "incomplete"].includes(crawl.status)) return null;
  return crawl.groups_listed === app.total_count ? words.allListed : words.someListed(crawl.groups_listed);
}

/** Returns the names of the outcomes in a bar, each with its cell. */
function legend(crawls) {
  const outcomes = Object.keys(words.outcomes).filter((outcome) => crawls.some((crawl) => outcomeOf(crawl) === outcome));
  return h("ul", { class: "legend" }, outcomes.map((outcome) => h("li", {}, h("span", { class: "cells", "aria-hidden": "true" }, h("span", { class: `cell ${outcome}` })), words.outcomes[outcome])));
}

/**
 * Returns a function that returns the growth of a type since the day before `newest` and since the
 * day a week before, as two texts. A baseline is not growth, so its `net_growth` is null.
 */
function growthByType(daily, newest) {
  const dayBefore = (days) => (newest ? new Date(Date.parse(newest) - days * 86400000).toISOString().slice(0, 10) : "");
  const oldest = daily.at(-1)?.day ?? "9999";
  return (type) => [1, 7].map((days) => {
    const since = dayBefore(days);
    const rows = daily.filter((row) => row.group_type === type && row.day > since && row.day <= newest);
    if (oldest > since || rows.length === 0 || rows.some((row) => row.net_growth === null)) return "–";
    return difference(rows.reduce((sum, row) => sum + row.net_growth, 0));
  });
}

function changes(crawl) {
  const parts = [["appeared", "+", "up"], ["vanished", "−", "down"], ["reappeared", "↺ ", "up"], ["retyped", "⇄ ", "turn"], ["undeleted", "↶ ", "turn"]]
    .filter(([name]) => crawl[name] > 0)
    .map(([name, sign, kind]) => h("span", { class: `change ${kind}`, title: words.events[name] }, h("span", { class: "visually-hidden" }, `${words.events[name]} `), signed(crawl[name], sign)));
  return parts.length > 0 ? h("span", { class: "changes" }, parts) : h("span", { class: "quiet" }, "–");
}

/** Sets the text of an element only if it differs, so that a selection by the reader stays. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
