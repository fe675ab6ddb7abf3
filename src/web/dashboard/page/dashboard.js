// Asks the service how its apps stand, over and over, and shows what has changed. Where to look is in the address:
// #/ all apps, #/SDKAppID one app, #/SDKAppID/group/ID one group of it.

import { AppView } from "./app.js";
import { h, keepTimesUp, number, pill, setServerTime, table, time } from "./elements.js";
import { words } from "./words.js";

const QUICK = 1000;
const SLOW = 5000;
/** When everything fails, the list says it better than fifty boxes. */
const MOST_ALERTS = 4;

const page = Object.fromEntries(["skip", "standing", "said", "alerts", "main", "foot"].map((id) => [id, document.getElementById(id)]));
let overview = null;
let view = null;
let unreachable = false;

export async function ask(path, options = {}) {
  const answer = await fetch(path, { headers: { accept: "application/json" }, signal: AbortSignal.timeout(15000), ...options });
  setServerTime(answer.headers.get("date"));
  const body = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body.error), { status: answer.status });
  return body;
}

/** Says something to those who cannot see it change. */
export function say(text) {
  page.said.textContent = text;
}

/** How an app stands, as one word and a kind of alarm. */
export function standing(app) {
  if (!app.configured) return ["quiet", "gone"];
  if (app.withheld.length > 0) return ["alarm", "withheld"];
  if (app.refused && !app.key_trouble) return ["alarm", "refused"];
  if (app.key_trouble || app.database_trouble) return ["alarm", "trouble"];
  if (app.last_crawl_status === "failed") return ["alarm", "failed"];
  if (app.last_crawl_status === "incomplete") return ["warn", "incomplete"];
  if (app.last_crawl_status === "cancelled") return ["quiet", "cancelled"];
  if (app.last_crawl_status === null) return ["quiet", app.running_crawl ? "running" : "waiting"];
  return ["good", "ok"];
}

const needsSomeone = (app) => ["alarm", "warn"].includes(standing(app)[0]);

/** Replaces children, and leaves the focus where it was if what had it is still there. */
export function replace(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement.id : "";
  element.replaceChildren(...children);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

function command(id, text) {
  const code = h("code", { tabindex: "0" }, text);
  const copy = navigator.clipboard && h("button", {
    type: "button", id: `copy-${id}`, "aria-label": words.copyCommand(text),
    click: async (event) => {
      const button = event.currentTarget;
      await navigator.clipboard.writeText(text);
      button.textContent = words.copied;
      say(words.copied);
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
    command(`look-${held.crawl_id}`, `tim-group-sync approve --crawl ${held.crawl_id} --dry-run`),
    h("p", { class: "step" }, words.withheldApply),
    command(`apply-${held.crawl_id}`, `tim-group-sync approve --crawl ${held.crawl_id}`));
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

/** A crawl's reason: its code in the reader's language where there is a word for it, and its sentence. */
export function reasonOf(crawl) {
  if (!crawl?.reason_code && !crawl?.reason) return null;
  const word = words.reasons[crawl.reason_code];
  return [word, crawl.reason].filter(Boolean).join(" · ");
}

/** What an app's crawl under way is doing, in a line. */
export function doing(crawl, typeNameOf) {
  if (crawl.pausing) return words.pausing(crawl.pausing);
  if (crawl.step === "listing") return words.listing(crawl.group_type === null ? words.allTypes : typeNameOf(crawl.group_type), crawl.type_listed_count, crawl.type_total_count);
  return words.steps[crawl.step] ?? words.elsewhere;
}

let alertsShown = "";
function showAlerts(apps) {
  const selected = route().app;
  const chosen = apps.filter((app) => selected === null || app.sdk_app_id === selected || app.withheld.length > 0);
  const state = JSON.stringify(chosen.map((app) => [app.app, app.configured, app.withheld, app.key_trouble, app.database_trouble, app.refused, app.last_crawl_status, app.last_crawl_reason]));
  if (state === alertsShown) return;
  const first = alertsShown === "";
  alertsShown = state;
  // What waits for a decision comes first, whichever app it is of.
  const all = chosen.flatMap(alertsOf);
  all.sort((a, b) => b.classList.contains("withheld") - a.classList.contains("withheld"));
  const more = new Set(all.slice(MOST_ALERTS).map((alert) => alert.dataset.app)).size;
  replace(page.alerts, ...all.slice(0, MOST_ALERTS), ...(more > 0 ? [h("p", {}, words.moreAlerts(more))] : []));
  if (!first && all.length > 0) say(all[0].querySelector("h2").textContent);
}

function standingLine(apps) {
  const wrong = apps.filter(needsSomeone).length;
  page.standing.className = wrong === 0 ? "good" : "alarm";
  page.standing.textContent = apps.length === 0 ? "" : words.standing(apps.length, wrong);
}

class ListView {
  constructor() {
    this.shown = "";
    this.element = h("section", { "aria-labelledby": "apps-title" });
  }

  show(apps) {
    const state = JSON.stringify(apps);
    if (state === this.shown) return;
    this.shown = state;
    if (apps.length === 0) {
      replace(this.element, h("h2", { id: "apps-title" }, words.apps), h("p", { class: "empty" }, words.noApps), h("p", { class: "quiet" }, words.noAppsMore));
      return;
    }
    const columns = [
      { name: words.app }, { name: words.state }, { name: words.live, number: true }, { name: words.missing, number: true },
      { name: words.lastComplete }, { name: words.nextCrawl },
    ];
    const rank = { alarm: 0, warn: 1 };
    const sorted = [...apps].sort((a, b) => (rank[standing(a)[0]] ?? 2) - (rank[standing(b)[0]] ?? 2));
    const rows = sorted.map((app) => {
      const [kind, word] = standing(app);
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
    replace(this.element, h("h2", { id: "apps-title" }, words.apps), table(words.apps, columns, rows, { class: "cards apps" }));
  }

  remove() {}
}

/** What the address asks for. */
function route() {
  const [app, what, id] = location.hash.replace(/^#\/?/, "").split("/");
  let group = null;
  try {
    group = what === "group" && id ? decodeURIComponent(id) : null;
  } catch {
    // An address that someone broke off in the middle of a character.
  }
  return { app: /^\d+$/.test(app) ? Number(app) : null, group };
}

function show() {
  if (!overview) return;
  const { apps } = overview;
  const { app: chosen, group } = route();
  // One app alone needs no list.
  const only = apps.length === 1 && chosen === null ? apps[0].sdk_app_id : null;
  const wanted = chosen ?? only;
  if (wanted === null) {
    if (!(view instanceof ListView)) enter(new ListView());
    view.show(apps);
    document.title = "tim-group-sync";
  } else {
    if (!(view instanceof AppView) || view.sdkAppId !== wanted) enter(new AppView(wanted, { ask, say, replace, standing, reasonOf, doing }));
    const app = apps.find((one) => one.sdk_app_id === wanted);
    view.show(app ?? null, apps.length > 1, group);
    document.title = app ? `${app.app} · tim-group-sync` : "tim-group-sync";
  }
  standingLine(apps);
  showAlerts(apps);
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const line = words.footer(overview.version, zone);
  if (page.foot.firstChild?.textContent !== line) page.foot.replaceChildren(h("span", {}, line), " · ", h("a", { href: "api/apps" }, words.api));
}

function enter(next) {
  view?.remove();
  view = next;
  page.main.replaceChildren(view.element);
}

let before = new Map();
/** Tells of crawls that begin and end to those who cannot see it. */
function tell(apps) {
  for (const app of apps) {
    const was = before.get(app.app);
    const shown = route().app ?? (apps.length === 1 ? app.sdk_app_id : null);
    if (was && app.sdk_app_id === shown) {
      const last = app.last_crawl;
      if (last && last.crawl_id !== was.last_crawl?.crawl_id) say(words.saidEnded(app.app, words.statuses[last.status] ?? last.status, last.appeared, last.vanished));
      else if (app.running_crawl && !was.running_crawl) say(words.saidRunning(app.app));
    }
  }
  before = new Map(apps.map((app) => [app.app, app]));
}

let timer = 0;
async function poll() {
  clearTimeout(timer);
  let pause = SLOW;
  try {
    overview = await ask("api/apps");
    if (unreachable) {
      unreachable = false;
      alertsShown = "";
      say(words.answered);
    }
    tell(overview.apps);
    show();
    if (overview.apps.some((app) => app.running_crawl?.here)) pause = QUICK;
  } catch (error) {
    if (!unreachable) {
      unreachable = true;
      alertsShown = "";
      page.alerts.replaceChildren(plainAlert(null, "alarm", words.unreachable, error.status ? error.message : null));
      say(words.unreachable);
    }
  }
  timer = setTimeout(poll, document.hidden ? 60000 : pause);
}

page.skip.addEventListener("click", () => page.main.focus());
window.addEventListener("hashchange", () => {
  show();
  page.main.focus({ preventScroll: true });
  scrollTo(0, 0);
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
setInterval(keepTimesUp, 1000);
poll();

