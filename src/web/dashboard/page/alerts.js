// The boxes above the content: what needs attention, why, and what to do.

import { severity } from "./conditions.js";
import { h, number, percent, pill, time, typeName } from "./elements.js";
import { words } from "./words.js";

/** The maximum number of boxes above the list of apps. If there are more alerts, each is one line. */
const MAX_BOXES = 2;
/** The maximum number of lines. If fifty apps fail, the list of apps is clearer than fifty lines. */
const MAX_LINES = 6;
/** The number of group ids that a box shows first, and adds for each click on "Show more". */
const IDS_PER_PAGE = 20;

/**
 * Returns why a crawl ended as it did: its reason code, if it is translated, and the recorded
 * sentence.
 */
export function reasonOf(crawl) {
  if (!crawl?.reason_code && !crawl?.reason) return null;
  const word = words.reasons[crawl.reason_code];
  return [word, crawl.reason].filter(Boolean).join(" · ");
}

/** Returns the alerts of an app, each as { kind, title, box }. `box` returns the element. */
function alertsOf(app, tools) {
  const alerts = app.withheld.map((held) => ({ kind: "withheld", title: heldTitle(app, held), box: () => heldBox(app, held, tools) }));
  if (!app.configured) return alerts;
  const add = (kind, title, ...texts) => alerts.push({ kind, title, box: () => plainBox(app, kind, title, ...texts) });
  if (app.database_trouble) add("alarm", words.databaseTitle(app.app), app.database_trouble);
  if (app.key_trouble) add("alarm", words.keyTitle(app.app), app.key_trouble);
  else if (app.refused) add("alarm", words.refusedTitle(app.app), app.last_crawl_reason, words.refusedWhy);
  else if (app.last_crawl_status === "failed") add("alarm", words.failedTitle(app.app), reasonOf(app.last_crawl), lateText(app));
  else if (app.condition === "late") add("alarm", words.lateTitle(app.app), lateText(app), reasonOf(app.last_crawl), words.lateWhy);
  else if (app.last_crawl_status === "incomplete") add("warn", words.incompleteTitle(app.app), reasonOf(app.last_crawl));
  if (app.condition === "retrying") add("warn", words.retryingTitle(app.app, app.running_crawl.failed_attempts), app.running_crawl.last_failure);
  if (isQuotaNear(app)) add("warn", words.quotaTitle(app.app, percent(app.month_peak_groups, app.group_quota)), words.quotaWhy(app.month_peak_groups, app.group_quota));
  return alerts;
}

export const isQuotaNear = (app) => app.group_quota !== null && app.month_peak_groups !== null && app.month_peak_groups >= 0.8 * app.group_quota;

/** Returns since when an app is late, or null if it is not. */
function lateText(app) {
  if (app.overdue_since) return h("span", {}, words.overdue, " ", time(app.overdue_since, { live: true }));
  return app.ticks_since_complete_crawl >= 3 ? words.lateTicks(app.ticks_since_complete_crawl) : null;
}

function plainBox(app, kind, title, ...texts) {
  return h("section", { class: `alert ${kind}`, "data-app": app?.app }, h("h2", {}, title), texts.filter(Boolean).map((text) => h("p", { class: "reason" }, text)));
}

export function unreachableBox(why) {
  return plainBox(null, "alarm", words.unreachable, why);
}

function heldTitle(app, held) {
  return (held.undeleted > 0 ? words.undoneTitle : words.withheldTitle)(app.app, held.held_count);
}

/** Returns the box of the deletions that a crawl withheld or that were undone. */
function heldBox(app, held, tools) {
  const undone = held.undeleted > 0;
  const of = undone ? held.undeleted : held.withheld;
  const facts = [
    [words.heldSince, h("span", {}, time(held.finished_at, { live: true }), words.inBrackets(words.crawlName(held.crawl_id)))],
    [undone ? words.stillUndone : words.stillHeld, of >= held.held_count ? words.partOf(held.held_count, of) : number(held.held_count)],
    [words.heldConfirmed, words.partOf(held.confirmed_count, held.held_count)],
    [words.heldTypes, h("ul", {}, held.types.map((type) => h("li", {}, words.typeShare(type.held_count, type.live_count, typeName(type.group_type, held.types)))))],
  ];
  const approve = `tim-group-sync approve --crawl ${held.crawl_id}`;
  const someConfirmed = held.confirmed_count > 0 && held.confirmed_count < held.held_count;
  return h("section", { class: "alert withheld", "data-app": app.app },
    h("h2", {}, heldTitle(app, held)),
    h("p", {}, undone ? words.undoneWhy(held.crawl_id) : words.withheldWhy(held.crawl_id)),
    heldReason(held),
    h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    heldIds(app, held, tools),
    h("p", { class: "step" }, words.withheldLook),
    commandLine(`look-${held.crawl_id}`, `${approve} --dry-run`, tools),
    h("p", { class: "step" }, words.withheldApply),
    commandLine(`apply-${held.crawl_id}`, approve, tools),
    someConfirmed ? [h("p", { class: "step" }, words.withheldApplyConfirmed), commandLine(`confirmed-${held.crawl_id}`, `${approve} --confirmed`, tools)] : null);
}

/** Returns the reason in the language of the page. The recorded sentence is in English. */
function heldReason(held) {
  const explained = words.heldReasons[held.reason_code];
  if (!explained) return held.reason ? h("p", { class: "reason" }, held.reason) : null;
  return h("div", { class: "reason" }, h("p", {}, explained),
    held.reason ? h("details", {}, h("summary", {}, words.recordedReason), h("p", { lang: "en" }, held.reason)) : null);
}

/** Returns the list of the held groups. It is loaded when it is opened. */
function heldIds(app, held, { fetchJson, announce }) {
  const list = h("ul", { class: "matches" });
  const more = h("p", {});
  let shown = 0;
  const load = async (after) => {
    const path = `api/apps/${app.sdk_app_id}/groups?held_by=${held.crawl_id}&limit=${IDS_PER_PAGE}&after=${encodeURIComponent(after)}`;
    const { groups, next_after: next } = await fetchJson(path);
    shown += groups.length;
    list.append(...groups.map((group) => h("li", {},
      h("a", { class: "id", href: `#/${app.sdk_app_id}/group/${encodeURIComponent(group.group_id)}` }, group.group_id), " ",
      h("small", {}, typeName(group.group_type, held.types)), group.confirmed ? [" ", h("small", {}, words.isConfirmed)] : null)));
    const left = Math.max(held.held_count - shown, 0);
    more.replaceChildren(...(next === null || left === 0 ? [] : [h("button", { type: "button", click: () => tryLoad(next) }, words.moreGroups(left))]));
  };
  const tryLoad = (after) => load(after).catch(() => announce(words.failedToLoad));
  return h("details", { class: "ids", toggle: (event) => { if (event.currentTarget.open && shown === 0) tryLoad(""); } },
    h("summary", {}, words.showHeld(held.held_count)), list, more);
}

/** Returns a command line with a button that copies it. */
function commandLine(id, text, { announce }) {
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

/** Returns one line for each alert: the app, as a link, and the title. */
function lines(alerts) {
  const shown = alerts.slice(0, MAX_LINES);
  const more = new Set(alerts.slice(MAX_LINES).map(({ app }) => app.app)).size;
  return h("div", { class: "alert lines" },
    h("ul", {}, shown.map(({ app, alert }) => h("li", {},
      pill(severity(app), words.conditions[app.condition]), " ",
      app.sdk_app_id === null ? alert.title : h("a", { href: `#/${app.sdk_app_id}`, id: `alert-${app.sdk_app_id}-${alert.kind}` }, alert.title)))),
    more > 0 ? h("p", {}, words.moreAlerts(more)) : null);
}

/**
 * Returns the elements of the alerts and the title of the first alert, which is null without
 * alerts. The alerts of the selected app are boxes. Without a selected app, the alerts of all apps
 * are boxes if there are at most MAX_BOXES, and otherwise one line each. On the page of an app,
 * the withheld deletions of other apps follow as one line each.
 */
export function alertElements(apps, selected, tools) {
  const rows = apps.flatMap((app) => alertsOf(app, tools).map((alert) => ({ app, alert })));
  // Withheld deletions come first, because they wait for a decision.
  rows.sort((a, b) => (b.alert.kind === "withheld") - (a.alert.kind === "withheld"));
  const own = selected === null ? rows : rows.filter(({ app }) => app.sdk_app_id === selected);
  // The page of an app mentions the decisions that other apps wait for.
  const others = selected === null ? [] : rows.filter(({ app, alert }) => app.sdk_app_id !== selected && alert.kind === "withheld");
  const boxes = selected === null && own.length > MAX_BOXES ? [lines(own)] : own.map(({ alert }) => alert.box());
  return { elements: others.length > 0 ? [...boxes, lines(others)] : boxes, first: (own[0] ?? others[0])?.alert.title ?? null };
}

/** Returns the state of the apps on which the alerts depend, as text. */
export function alertContent(apps, selected) {
  return JSON.stringify([selected, apps.map((app) => [
    app.app, app.configured, app.condition, app.withheld, app.key_trouble, app.database_trouble, app.refused, app.overdue_since, app.month_peak_groups,
    app.group_quota, app.ticks_since_complete_crawl >= 3 ? app.ticks_since_complete_crawl : null, app.last_crawl_status, app.last_crawl_reason,
    app.condition === "retrying" ? app.running_crawl.failed_attempts : null,
  ])]);
}
