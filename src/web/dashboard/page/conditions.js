// The severity of an app's condition. The server computes the condition.

/** The severity of each condition, which is a CSS class. Their names are in words.conditions. */
const SEVERITIES = {
  withheld: "alarm", key_unreadable: "alarm", refused: "alarm", database_problem: "alarm", failed: "alarm", late: "alarm",
  incomplete: "warn", retrying: "warn", quota_near: "warn",
  not_configured: "quiet", cancelled: "quiet", never_crawled: "quiet", up_to_date: "good",
};
const RANKS = ["alarm", "warn", "quiet", "good"];

export const severity = (app) => SEVERITIES[app.condition] ?? "quiet";
/** The position of an app in a list that begins with the worst ones. */
export const rank = (app) => RANKS.indexOf(severity(app));
/** Whether the app is configured and no crawl of it has ended. */
export const isNew = (app) => app.configured && app.last_crawl === null;
