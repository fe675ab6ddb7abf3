//! Authenticates a request by the parameters in its URL.

use axum::http::Uri;

use super::refusal::Refusal;
use super::settings::Settings;
use crate::model::SdkAppId;
use crate::tencent::usersig::{self, InvalidUserSig};

/// Checks the parameters. The error has the documented code for the first missing or wrong
/// parameter.
pub(super) fn authenticate(settings: &Settings, uri: &Uri) -> Result<(), Refusal> {
    let query = Query::of(uri);
    let app = query.get("sdkappid").ok_or(Refusal(60012, "sdkappid is missing from the URL"))?;
    let app = app.parse().ok().and_then(SdkAppId::new).ok_or(Refusal(60006, "sdkappid is invalid"))?;
    if app != settings.sdk_app_id {
        return Err(Refusal(70020, "no such sdkappid in this data centre"));
    }
    let identifier = query.get("identifier").ok_or(Refusal(60004, "identifier is missing from the URL"))?;
    let usersig = query.get("usersig").filter(|usersig| !usersig.is_empty());
    let usersig = usersig.ok_or(Refusal(70002, "the UserSig has length 0"))?;
    let now = settings.clock.now().timestamp();
    let claims = usersig::verify(usersig, &settings.secret_key, now).map_err(|invalid| match invalid {
        InvalidUserSig::Undecodable => Refusal(70003, "the UserSig is illegal, perhaps truncated"),
        InvalidUserSig::WrongKey => Refusal(70009, "the UserSig was made with another key"),
        InvalidUserSig::Expired => Refusal(70001, "the UserSig has expired"),
    })?;
    if claims.sdk_app_id != app {
        return Err(Refusal(70014, "the sdkappid differs from the one in the UserSig"));
    }
    if claims.identifier != identifier {
        return Err(Refusal(70013, "the identifier differs from the one in the UserSig"));
    }
    if identifier != settings.identifier {
        return Err(Refusal(10007, "the identifier is not an administrator of the app"));
    }
    if query.get("random").is_none_or(|random| random.parse::<u32>().is_err()) {
        return Err(Refusal(60002, "random must be an unsigned 32-bit number"));
    }
    if query.get("contenttype") != Some("json") {
        return Err(Refusal(60002, "contenttype must be json"));
    }
    Ok(())
}

/// The decoded parameters of a URL. Names and values are case-sensitive. If a name is repeated, its
/// first value is used. axum's `Query` extractor would use the last one, or reject the request.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(uri: &Uri) -> Self {
        Self(form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|(key, value)| (key == name).then_some(value.as_str()))
    }
}
