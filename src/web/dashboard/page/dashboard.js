// Polls the state of the apps and updates the page when it changes. The fragment of the address
// chooses the view: #/ shows all apps, #/SDKAppID one app, #/SDKAppID/group/ID one group of an app.

import { alertContent, alertElements, unreachableBox } from "./alerts.js";
import { AppView } from "./app.js";
import { h, setServerTime, updateRelativeTimes } from "./elements.js";
import { AppList } from "./list.js";
import { words } from "./words.js";

/** Milliseconds between two polls while this service crawls. */
const POLL_CRAWLING = 1000;
/** Milliseconds between two polls while this service does not crawl. */
const POLL_IDLE = 5000;
/** Milliseconds between two polls while the page is hidden. */
const POLL_HIDDEN = 60000;

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
 * Replaces the children of an element. Keeps the focus if an element with the same id replaces the
 * focused one.
 */
function replaceChildren(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement.id : "";
  element.replaceChildren(...children);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

/** Describes in one line what a running crawl is doing. */
function describeProgress(crawl, typeNameOf) {
  if (crawl.pausing) return words.pausing(crawl.pausing, crawl.failed_attempts);
  if (crawl.step === "listing") return words.listing(crawl.group_type === null ? words.allTypes : typeNameOf(crawl.group_type), crawl.type_listed_count, crawl.type_total_count);
  return words.steps[crawl.step] ?? words.runningElsewhere;
}

let alertsShown = "";
/** The title of the first alert. */
let firstAlert = null;
function showAlerts(apps, selected) {
  const content = alertContent(apps, selected);
  if (content === alertsShown) return;
  const first = alertsShown === "";
  alertsShown = content;
  const alerts = alertElements(apps, selected, { fetchJson, announce });
  replaceChildren(page.alerts, ...alerts.elements);
  if (!first && alerts.first !== null && alerts.first !== firstAlert) announce(alerts.first);
  firstAlert = alerts.first;
}

function showSummary(apps) {
  const affected = apps.filter((app) => app.needs_attention).length;
  const good = apps.filter((app) => app.condition === "up_to_date").length;
  // An app that is no longer configured is not expected to be up to date.
  const all = apps.filter((app) => app.configured || app.needs_attention).length;
  page.summary.className = affected > 0 ? "alarm" : good < all ? "open" : "good";
  page.summary.textContent = all === 0 ? "" : words.summary(all, affected, good);
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
    if (!(view instanceof AppList)) switchTo(new AppList({ announce, replaceChildren }));
    view.show(apps);
    document.title = "tim-group-sync";
  } else {
    if (!(view instanceof AppView) || view.sdkAppId !== wanted) switchTo(new AppView(wanted, { fetchJson, announce, replaceChildren, describeProgress }));
    const app = apps.find((one) => one.sdk_app_id === wanted);
    view.show(app ?? null, apps.length > 1, group);
    document.title = app ? `${app.app} · tim-group-sync` : "tim-group-sync";
  }
  showSummary(apps);
  showAlerts(apps, wanted);
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
      page.alerts.replaceChildren(unreachableBox(error.status ? error.message : null));
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
