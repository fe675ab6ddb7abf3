// Polls the state of the apps and updates the page when it changes. The fragment of the address
// chooses the view: #/ shows all apps, #/SDKAppID one app, #/SDKAppID/group/ID one group of an app.

import { AppView } from "./app.js";
import { h, number, pill, setServerTime, table, time, updateRelativeTimes } from "./elements.js";
import { words } from "./words.js";

/**
 * Milliseconds between two polls: while this service crawls, otherwise, and while the page is
 * hidden.
 */
const POLL_CRAWLING = 1000;
const POLL_IDLE = 5000;
const POLL_HIDDEN = 60000;
/**
 * The maximum number of alerts. If all of fifty apps fail, the list of apps is clearer than fifty
 * alerts.
 */
const MAX_ALERTS = 4;

const page = Object.fromEntries(["skip", "summary", "announcement", "alerts", "main", "foot"].map((id) => [id, document.getElementById(id)]));
let overview = null;
let view = null;
let unreachable = false;

/** Requests a path of the JSON API and returns the decoded answer. */
async function fetchJson(path, options = {}) {
  const answer = await fetch(path, { headers: { accept: "application/json" }, signal: AbortSignal.timeout(15000), ...options });
  setServerTime(answer.headers.get("date"));
  const body = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body.error), { status: answer.status });
  return body;
}

/** Announces a text to screen readers. */
function announce(text) {
  page.announcement.textContent = text;
}

/**
 * Returns the severity of an app's state, which is a CSS class, and the key of its name in
 * words.states.
 */
function appState(app) {
  if (!app.configured) return ["quiet", "notConfigured"];
  if (app.withheld.length > 0) return ["alarm", "withheld"];
  if (app.refused && !app.key_trouble) return ["alarm", "refused"];
  if (app.key_trouble || app.database_trouble) return ["alarm", "problem"];
  if (app.last_crawl_status === "failed") return ["alarm", "failed"];
  if (app.last_crawl_status === "incomplete") return ["warn", "incomplete"];
  if (app.last_crawl_status === "cancelled") return ["quiet", "cancelled"];
  if (app.last_crawl_status === null) return ["quiet", app.running_crawl ? "running" : "waiting"];
  return ["good", "upToDate"];
}

const needsAttention = (app) => ["alarm", "warn"].includes(appState(app)[0]);

/**
 * Replaces the children of an element. Keeps the focus if an element with the same id replaces the
 * focused one.
 */
function replaceChildren(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement.id : "";
  element.replaceChildren(...children);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

/** Returns a command line with a button that copies it. */
function commandLine(id, text) {
  const code = h("code", { tabindex: "0" }, text);
  const copy = navigator.clipboard && h("button", {
    type: "button", id: `copy-${id}`, "aria-label": words.copyCommand(text),
    click: async (event) => {
      const button = event.currentTarget;
      await navigator.clipboard.writeText(text);
      button.textContent = words.copied;
      announce(words.copied);
      setTimeout(() => { button.textContent = words.copy; }, 2000);
    },
  }, words.copy);
  return h("p", { class: "command" }, code, copy);
}

function withheldAlert(app, held) {
  const undone = held.undeleted > 0;
  const title = undone ? words.undoneTitle : words.withheldTitle;
  return h("section", { class: "alert withheld", "data-app": app.app },
    h("h2", {}, title(app.app, held.held_count)),
    h("p", {}, undone ? words.undoneWhy(held.crawl_id) : words.withheldWhy(held.crawl_id)),
    held.reason ? h("p", { class: "reason" }, held.reason) : null,
    h("p", { class: "step" }, words.withheldLook),
    commandLine(`look-${held.crawl_id}`, `tim-group-sync approve --crawl ${held.crawl_id} --dry-run`),
    h("p", { class: "step" }, words.withheldApply),
    commandLine(`apply-${held.crawl_id}`, `tim-group-sync approve --crawl ${held.crawl_id}`));
}

function plainAlert(app, kind, title, ...texts) {
  return h("section", { class: `alert ${kind}`, "data-app": app?.app }, h("h2", {}, title), texts.filter(Boolean).map((text) => h("p", { class: "reason" }, text)));
}

function alertsOf(app) {
  const alerts = app.withheld.map((held) => withheldAlert(app, held));
  if (!app.configured) return alerts;
  if (app.database_trouble) alerts.push(plainAlert(app, "alarm", words.databaseTitle(app.app), app.database_trouble));
  if (app.key_trouble) alerts.push(plainAlert(app, "alarm", words.keyTitle(app.app), app.key_trouble));
  else if (app.refused) alerts.push(plainAlert(app, "alarm", words.refusedTitle(app.app), app.last_crawl_reason, words.refusedWhy));
  else if (app.last_crawl_status === "failed") alerts.push(plainAlert(app, "alarm", words.failedTitle(app.app), reasonOf(app.last_crawl)));
  else if (app.last_crawl_status === "incomplete") alerts.push(plainAlert(app, "warn", words.incompleteTitle(app.app), reasonOf(app.last_crawl)));
  return alerts;
}

/**
 * Returns why a crawl ended as it did: its reason code, if it is translated, and the recorded
 * sentence.
 */
function reasonOf(crawl) {
  if (!crawl?.reason_code && !crawl?.reason) return null;
  const word = words.reasons[crawl.reason_code];
  return [word, crawl.reason].filter(Boolean).join(" · ");
}

/** Describes in one line what a running crawl is doing. */
function describeProgress(crawl, typeNameOf) {
  if (crawl.pausing) return words.pausing(crawl.pausing);
  if (crawl.step === "listing") return words.listing(crawl.group_type === null ? words.allTypes : typeNameOf(crawl.group_type), crawl.type_listed_count, crawl.type_total_count);
  return words.steps[crawl.step] ?? words.runningElsewhere;
}

let alertsShown = "";
function showAlerts(apps) {
  const selected = route().app;
  const chosen = apps.filter((app) => selected === null || app.sdk_app_id === selected || app.withheld.length > 0);
  const content = JSON.stringify(chosen.map((app) => [app.app, app.configured, app.withheld, app.key_trouble, app.database_trouble, app.refused, app.last_crawl_status, app.last_crawl_reason]));
  if (content === alertsShown) return;
  const first = alertsShown === "";
  alertsShown = content;
  // Withheld deletions come first, because they wait for a decision.
  const all = chosen.flatMap(alertsOf);
  all.sort((a, b) => b.classList.contains("withheld") - a.classList.contains("withheld"));
  const more = new Set(all.slice(MAX_ALERTS).map((alert) => alert.dataset.app)).size;
  replaceChildren(page.alerts, ...all.slice(0, MAX_ALERTS), ...(more > 0 ? [h("p", {}, words.moreAlerts(more))] : []));
  if (!first && all.length > 0) announce(all[0].querySelector("h2").textContent);
}

function showSummary(apps) {
  const affected = apps.filter(needsAttention).length;
  page.summary.className = affected === 0 ? "good" : "alarm";
  page.summary.textContent = apps.length === 0 ? "" : words.summary(apps.length, affected);
}

/** The view of all apps. */
class AppList {
  constructor() {
    this.shown = "";
    this.element = h("section", { "aria-labelledby": "apps-title" });
  }

  show(apps) {
    const state = JSON.stringify(apps);
    if (state === this.shown) return;
    this.shown = state;
    if (apps.length === 0) {
      replaceChildren(this.element, h("h2", { id: "apps-title" }, words.apps), h("p", { class: "empty" }, words.noApps), h("p", { class: "quiet" }, words.noAppsMore));
      return;
    }
    const columns = [
      { name: words.app }, { name: words.state }, { name: words.live, number: true }, { name: words.missing, number: true },
      { name: words.lastComplete }, { name: words.nextCrawl },
    ];
    const rank = { alarm: 0, warn: 1 };
    const sorted = [...apps].sort((a, b) => (rank[appState(a)[0]] ?? 2) - (rank[appState(b)[0]] ?? 2));
    const rows = sorted.map((app) => {
      const [kind, word] = appState(app);
      const link = app.sdk_app_id === null ? app.app : h("a", { href: `#/${app.sdk_app_id}`, id: `app-${app.sdk_app_id}` }, app.app);
      const running = app.running_crawl && word !== "running" ? pill("busy", words.states.running) : null;
      return [
        h("span", {}, link, " ", app.sdk_app_id === null ? null : h("small", {}, app.sdk_app_id)),
        h("span", { class: "pills" }, pill(kind, words.states[word]), running),
        number(app.live_count),
        app.missing_count > 0 ? h("strong", {}, number(app.missing_count)) : "0",
        app.last_complete_crawl_at ? time(app.last_complete_crawl_at, { live: true }) : words.never,
        app.next_crawl_at ? time(app.next_crawl_at, { live: true }) : "–",
      ];
    });
    replaceChildren(this.element, h("h2", { id: "apps-title" }, words.apps), table(words.apps, columns, rows, { class: "cards apps" }));
  }

  remove() {}
}

/** Parses the fragment of the address. */
function route() {
  const [app, what, id] = location.hash.replace(/^#\/?/, "").split("/");
  let group = null;
  try {
    group = what === "group" && id ? decodeURIComponent(id) : null;
  } catch {
    // The address ends in the middle of an encoded character.
  }
  return { app: /^\d+$/.test(app) ? Number(app) : null, group };
}

function show() {
  if (!overview) return;
  const { apps } = overview;
  const { app: chosen, group } = route();
  // A single app is shown without the list of apps.
  const only = apps.length === 1 && chosen === null ? apps[0].sdk_app_id : null;
  const wanted = chosen ?? only;
  if (wanted === null) {
    if (!(view instanceof AppList)) switchTo(new AppList());
    view.show(apps);
    document.title = "tim-group-sync";
  } else {
    if (!(view instanceof AppView) || view.sdkAppId !== wanted) switchTo(new AppView(wanted, { fetchJson, announce, replaceChildren, appState, reasonOf, describeProgress }));
    const app = apps.find((one) => one.sdk_app_id === wanted);
    view.show(app ?? null, apps.length > 1, group);
    document.title = app ? `${app.app} · tim-group-sync` : "tim-group-sync";
  }
  showSummary(apps);
  showAlerts(apps);
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const line = words.footer(overview.version, zone);
  if (page.foot.firstChild?.textContent !== line) page.foot.replaceChildren(h("span", {}, line), " · ", h("a", { href: "api/apps" }, words.api));
}

function switchTo(next) {
  view?.remove();
  view = next;
  page.main.replaceChildren(view.element);
}

let previousApps = new Map();
/** Announces to screen readers that a crawl of the shown app started or ended. */
function announceCrawls(apps) {
  for (const app of apps) {
    const previous = previousApps.get(app.app);
    const shown = route().app ?? (apps.length === 1 ? app.sdk_app_id : null);
    if (previous && app.sdk_app_id === shown) {
      const last = app.last_crawl;
      if (last && last.crawl_id !== previous.last_crawl?.crawl_id) announce(words.announceEnd(app.app, words.statuses[last.status] ?? last.status, last.appeared, last.vanished));
      else if (app.running_crawl && !previous.running_crawl) announce(words.announceStart(app.app));
    }
  }
  previousApps = new Map(apps.map((app) => [app.app, app]));
}

let timer = 0;
async function poll() {
  clearTimeout(timer);
  let pause = POLL_IDLE;
  try {
    overview = await fetchJson("api/apps");
    if (unreachable) {
      unreachable = false;
      alertsShown = "";
      announce(words.answered);
    }
    announceCrawls(overview.apps);
    show();
    if (overview.apps.some((app) => app.running_crawl?.here)) pause = POLL_CRAWLING;
  } catch (error) {
    if (!unreachable) {
      unreachable = true;
      alertsShown = "";
      page.alerts.replaceChildren(plainAlert(null, "alarm", words.unreachable, error.status ? error.message : null));
      announce(words.unreachable);
    }
  }
  timer = setTimeout(poll, document.hidden ? POLL_HIDDEN : pause);
}

page.skip.addEventListener("click", () => page.main.focus());
window.addEventListener("hashchange", () => {
  show();
  page.main.focus({ preventScroll: true });
  scrollTo(0, 0);
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
setInterval(updateRelativeTimes, 1000);
poll();
