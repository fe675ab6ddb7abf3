//! A headless Chromium, controlled over its debugging pipe. The variable `CHROMIUM` names another
//! executable.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::dashboard::Dashboard;

/// A browser has about a dozen processes, so only one runs at a time.
static ONE_AT_A_TIME: Semaphore = Semaphore::const_new(1);
/// Maximum time to wait for an answer of the browser.
const TIMEOUT: Duration = Duration::from_secs(150);

/// A browser process with one page.
pub struct Browser {
    _process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    request_id: u64,
    page: Option<String>,
    events: Vec<Value>,
    user_agent: String,
    _profile: TempDir,
    _turn: SemaphorePermit<'static>,
}

/// The screen and the preferences of a user.
#[derive(Clone, Copy, Debug)]
pub struct UserProfile {
    pub width: u32,
    pub height: u32,
    pub language: &'static str,
    pub dark: bool,
    pub timezone: &'static str,
    /// Screen pixels per CSS pixel.
    pub scale: f64,
}

pub const DESKTOP: UserProfile =
    UserProfile { width: 1280, height: 900, language: "en-GB", dark: false, timezone: "UTC", scale: 1.0 };
pub const PHONE: UserProfile = UserProfile { width: 360, height: 740, ..DESKTOP };

fn program() -> String {
    let named = std::env::var("CHROMIUM").ok();
    let known = ["/usr/bin/chromium-headless-shell", "/usr/bin/chromium"].map(str::to_owned);
    let found = named.into_iter().chain(known).find(|program| Path::new(program).exists());
    found.expect(
        "the tests of the page need Chromium: run tests/run, which installs it, or name one in CHROMIUM",
    )
}

impl Browser {
    pub async fn start() -> Self {
        let turn = ONE_AT_A_TIME.acquire().await.unwrap();
        let profile = tempfile::tempdir().unwrap();
        let folder = profile.path().display();
        // Chromium reads commands from file descriptor 3 and writes answers to 4.
        let mut process = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", &program()])
            .args([
                "--headless",
                "--no-sandbox",
                "--remote-debugging-pipe",
                "--disable-gpu",
                "--no-first-run",
            ])
            .args(["--disable-dev-shm-usage", "--disable-background-networking", "--hide-scrollbars"])
            .args(["--no-default-browser-check", "--disable-extensions", "--disable-component-update"])
            .arg(format!("--user-data-dir={folder}"))
            .env("HOME", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut browser = Self {
            _process: process,
            input,
            output,
            request_id: 0,
            page: None,
            events: Vec::new(),
            user_agent: String::new(),
            _profile: profile,
            _turn: turn,
        };
        let version = browser.call("Browser.getVersion", json!({})).await;
        version["userAgent"].as_str().unwrap().clone_into(&mut browser.user_agent);
        browser
    }

    /// Opens a URL in a new page.
    pub async fn open(&mut self, url: &str, user: UserProfile) {
        self.page = None;
        self.events.clear();
        let context = self.call("Target.createBrowserContext", json!({ "disposeOnDetach": true })).await;
        let context = &context["browserContextId"];
        let target = json!({ "url": "about:blank", "browserContextId": context });
        let target = self.call("Target.createTarget", target).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = self.call("Target.attachToTarget", attach).await;
        self.page = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network", "DOM", "Accessibility"] {
            self.call(&format!("{domain}.enable"), json!({})).await;
        }
        let UserProfile { width, height, language, dark, timezone, scale } = user;
        let agent = json!({ "userAgent": self.user_agent, "acceptLanguage": language });
        self.call("Emulation.setUserAgentOverride", agent).await;
        self.call("Emulation.setTimezoneOverride", json!({ "timezoneId": timezone })).await;
        let media = json!([
            { "name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" } },
            { "name": "prefers-reduced-motion", "value": "reduce" },
        ]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": media })).await;
        let screen =
            json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 500 });
        self.call("Emulation.setDeviceMetricsOverride", screen).await;
        self.call("Page.navigate", json!({ "url": url })).await;
    }

    /// Evaluates a JavaScript expression and awaits its result.
    pub async fn eval(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", parameters).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Returns the time in milliseconds from the end of an answer to the paint of the page's
    /// largest element after it. `path` is the end of the answer's URL.
    pub async fn millis_from_answer_to_paint(&mut self, path: &str) -> f64 {
        let millis = format!(
            "new Promise((done) => new PerformanceObserver((list) => {{
               const answer = performance.getEntriesByType('resource').find((one) => one.name.endsWith('{path}'));
               const painted = list.getEntries().at(-1).startTime;
               if (answer && painted > answer.responseEnd) done(painted - answer.responseEnd);
             }}).observe({{ type: 'largest-contentful-paint', buffered: true }}))"
        );
        self.eval(&millis).await.as_f64().unwrap()
    }

    /// Waits until an expression is true.
    pub async fn wait_until(&mut self, expression: &str) {
        let condition = format!(
            "new Promise((done) => {{
               const end = Date.now() + 90000;
               const check = () => {{
                 let isTrue = false;
                 try {{ isTrue = Boolean({expression}); }} catch {{ }}
                 if (isTrue || Date.now() > end) done(isTrue); else setTimeout(check, 20);
               }};
               check();
             }})"
        );
        let is_true = self.eval(&condition).await;
        if is_true != true {
            let text = self.eval("document.body.innerText").await;
            panic!(
                "timed out waiting for {expression}\n{:?}\nthe page shows\n{}",
                self.console_messages(),
                text.as_str().unwrap()
            );
        }
    }

    /// Returns the visible text of the page.
    pub async fn text(&mut self) -> String {
        self.eval("document.body.innerText").await.as_str().unwrap().to_owned()
    }

    pub async fn click(&mut self, selector: &str) {
        let selector = json!(selector);
        self.eval(&format!("document.querySelector({selector}).click()")).await;
    }

    /// Presses a key: Tab, Enter, Space, or a character.
    pub async fn press(&mut self, key: &str) {
        let (code, number, text) = match key {
            "Tab" => ("Tab", 9, ""),
            "Enter" => ("Enter", 13, "\r"),
            "Space" => ("Space", 32, " "),
            other => (other, 0, other),
        };
        let key = if key == "Space" { " " } else { key };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({ "type": kind, "key": key, "code": code, "windowsVirtualKeyCode": number, "text": text });
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// Types text into the focused element.
    pub async fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    /// Returns roles and names of the accessibility tree, in order.
    pub async fn accessibility_tree(&mut self) -> Vec<(String, String)> {
        let tree = self.call("Accessibility.getFullAXTree", json!({})).await;
        let nodes = tree["nodes"].as_array().unwrap();
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        nodes
            .iter()
            .filter(|node| node["ignored"] != true)
            .map(|node| (text(&node["role"]), text(&node["name"])))
            .collect()
    }

    /// Returns a screenshot as PNG: the entire page, or the part that fits on the screen.
    pub async fn screenshot(&mut self, full_page: bool) -> Vec<u8> {
        let metrics = self.call("Page.getLayoutMetrics", json!({})).await;
        let size = if full_page { &metrics["cssContentSize"] } else { &metrics["cssLayoutViewport"] };
        let (width, height) = if full_page {
            (size["width"].clone(), size["height"].clone())
        } else {
            (size["clientWidth"].clone(), size["clientHeight"].clone())
        };
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": height, "scale": 1 });
        let parameters = json!({ "format": "png", "captureBeyondViewport": full_page, "clip": clip });
        let answer = self.call("Page.captureScreenshot", parameters).await;
        BASE64_STANDARD.decode(answer["data"].as_str().unwrap()).unwrap()
    }

    /// Returns exceptions, console messages, and errors and warnings of the browser.
    pub fn console_messages(&self) -> Vec<String> {
        let console_message = |event: &Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => Some(event["params"].to_string()),
            Some("Runtime.consoleAPICalled") => Some(event["params"]["args"].to_string()),
            Some("Log.entryAdded") => {
                let entry = &event["params"]["entry"];
                matches!(entry["level"].as_str(), Some("error" | "warning")).then(|| entry.to_string())
            }
            _ => None,
        };
        self.events.iter().filter_map(console_message).collect()
    }

    /// Returns the URL of every request that the page made.
    pub fn requested_urls(&self) -> Vec<String> {
        let requests = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        requests.map(|event| event["params"]["request"]["url"].as_str().unwrap().to_owned()).collect()
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.request_id += 1;
        let mut message = json!({ "id": self.request_id, "method": method, "params": parameters });
        if let Some(page) = &self.page {
            message["sessionId"] = json!(page);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        let answer = async {
            self.input.write_all(&bytes).await?;
            loop {
                let mut bytes = Vec::new();
                if self.output.read_until(0, &mut bytes).await? == 0 {
                    return Err(io::Error::other("Chromium closed the pipe"));
                }
                bytes.pop();
                let message: Value = serde_json::from_slice(&bytes)?;
                if message["id"] == self.request_id {
                    return Ok(message);
                }
                if message["method"].is_string() && message["sessionId"].as_str() == self.page.as_deref() {
                    self.events.push(message);
                }
            }
        };
        let answer = timeout(TIMEOUT, answer).await.unwrap_or_else(|_| panic!("{method}: no answer"));
        let mut answer = answer.unwrap_or_else(|error| panic!("{method}: {error}"));
        assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
        answer["result"].take()
    }
}

impl Browser {
    /// Asserts that there are no console messages, no requests to other hosts, and no element wider
    /// than the screen.
    pub async fn assert_clean(&mut self, dashboard: &Dashboard) {
        assert_eq!(self.console_messages(), [""; 0]);
        let own = format!("http://{}/", dashboard.address);
        let other_hosts: Vec<String> =
            self.requested_urls().into_iter().filter(|url| !url.starts_with(&own)).collect();
        assert_eq!(other_hosts, [""; 0]);
        let too_wide = "[...document.querySelectorAll('body *')].filter((one) => !one.closest('.scroll, .visually-hidden, .plot') \
             && one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML.slice(0, 200))";
        assert_eq!(self.eval(too_wide).await, json!([]));
        assert_eq!(self.eval("document.documentElement.scrollWidth <= innerWidth").await, true);
    }

    /// Asserts the rules of WCAG that axe can check.
    pub async fn assert_accessible(&mut self) {
        let rules = crate::root().join("target/axe/axe_playwright_python/axe.min.js");
        let rules = std::fs::read_to_string(rules).expect("tests/run installs axe");
        self.eval(&format!("{rules}; true")).await;
        let broken = self
            .eval(
                "axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] })
                   .then((found) => found.violations.map((one) => [one.id, one.help, one.nodes.map((node) => [node.html, node.failureSummary])]))",
            )
            .await;
        assert_eq!(broken, json!([]), "{broken:#}");
    }
}
