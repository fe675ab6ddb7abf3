//! Serves the files of the page, which are compiled into the program, and chooses the page's
//! language.

use axum::extract::{Path, Query};
use axum::http::header::{ACCEPT_LANGUAGE, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};

use super::error::RequestError;
use super::parameters::{Pairs, Parameters, quoted};

const INDEX: &str = include_str!("page/index.html");

macro_rules! assets {
    ($($name:literal $kind:literal $file:literal),+ $(,)?) => {
        &[$(($name, $kind, include_bytes!(concat!("page/", $file)))),+]
    };
}
/// The name, media type and content of each file. Those of the chart library are unchanged copies
/// from its npm package.
const ASSETS: &[(&str, &str, &[u8])] = assets![
    "dashboard.css" "text/css; charset=utf-8" "dashboard.css",
    "dashboard.js" "text/javascript; charset=utf-8" "dashboard.js",
    "alerts.js" "text/javascript; charset=utf-8" "alerts.js",
    "list.js" "text/javascript; charset=utf-8" "list.js",
    "conditions.js" "text/javascript; charset=utf-8" "conditions.js",
    "app.js" "text/javascript; charset=utf-8" "app.js",
    "charts.js" "text/javascript; charset=utf-8" "charts.js",
    "elements.js" "text/javascript; charset=utf-8" "elements.js",
    "words.js" "text/javascript; charset=utf-8" "words.js",
    "icon.svg" "image/svg+xml" "icon.svg",
    "uPlot.iife.min.js" "text/javascript; charset=utf-8" "uplot/uPlot.iife.min.js",
    "uPlot.min.css" "text/css; charset=utf-8" "uplot/uPlot.min.css",
    "uPlot.LICENSE" "text/plain; charset=utf-8" "uplot/LICENSE",
];

pub(super) async fn asset(Path(name): Path<String>) -> Response {
    match ASSETS.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, content)) => ([(CONTENT_TYPE, *kind)], *content).into_response(),
        None => (StatusCode::NOT_FOUND, "there is no such file\n").into_response(),
    }
}

/// Returns the page in the language of `?lang=`. Without that parameter, uses the language that the
/// browser prefers.
pub(super) async fn index(Query(pairs): Query<Pairs>, headers: HeaderMap) -> Result<Response, RequestError> {
    let parameters = Parameters::of(pairs, &["lang"])?;
    let chosen = match parameters.text("lang")? {
        "" => None,
        "en" => Some(Language::English),
        "zh" => Some(Language::Chinese),
        other => {
            return Err(RequestError::Malformed(format!("lang must be en or zh, not {}", quoted(other))));
        }
    };
    let preferred = headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let language = chosen.unwrap_or_else(|| Language::preferred(preferred));
    let mut page = INDEX.to_owned();
    for (placeholder, text) in language.texts() {
        page = page.replace(placeholder, text);
    }
    Ok(([(VARY, "accept-language")], Html(page)).into_response())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    English,
    Chinese,
}

impl Language {
    /// Returns the language with the highest weight in an `Accept-Language` header. Of equal
    /// weights the first one counts. Returns English if the header has neither language.
    fn preferred(accept: &str) -> Self {
        let weighed = accept.split(',').filter_map(|choice| {
            let mut parts = choice.split(';').map(str::trim);
            let tag = parts.next()?.to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse::<f32>);
            let language = match tag.split('-').next()? {
                "zh" => Self::Chinese,
                "en" | "*" => Self::English,
                _ => return None,
            };
            Some((language, weight.ok().filter(|weight| *weight > 0.0)?))
        });
        let best = weighed.reduce(|best, next| if next.1 > best.1 { next } else { best });
        best.map_or(Self::English, |(language, _)| language)
    }

    /// Returns the placeholders in index.html and their texts. words.js has all other texts.
    fn texts(self) -> [(&'static str, &'static str); 7] {
        const CURRENT: &str = " aria-current=\"true\"";
        match self {
            Self::English => [
                ("{lang}", "en"),
                ("{skip}", "Skip to the content"),
                ("{alerts}", "Problems that need attention"),
                ("{languages}", "Language"),
                ("{en_current}", CURRENT),
                ("{zh_current}", ""),
                ("{noscript}", "This page needs JavaScript. The same data is available as JSON at api/apps."),
            ],
            Self::Chinese => [
                ("{lang}", "zh-CN"),
                ("{skip}", "跳到内容"),
                ("{alerts}", "需要处理"),
                ("{languages}", "语言"),
                ("{en_current}", ""),
                ("{zh_current}", CURRENT),
                ("{noscript}", "此页面需要 JavaScript。相同的数据以 JSON 形式提供，见 api/apps。"),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_language_that_the_browser_prefers() {
        use Language::{Chinese, English};
        for (accept, language) in [
            ("", English),
            ("de", English),
            ("zh", Chinese),
            ("zh-CN,zh;q=0.9,en;q=0.8", Chinese),
            ("zh-Hant-HK", Chinese),
            ("en-US,en;q=0.9,zh-CN;q=0.8", English),
            ("en;q=0.5, zh-TW;q=0.7", Chinese),
            ("zh;q=0, en;q=0.1", English),
            ("de, zh;q=0.5", Chinese),
            ("*", English),
            (";;q=,,zh;q=x,-", English),
        ] {
            assert_eq!(Language::preferred(accept), language, "{accept:?}");
        }
    }
}
