//! UserSig, the signature that every REST call carries (TLSSigAPIv2, 269/32688): made, decoded and verified.
//! Pure: the time comes in, and nothing is cached here.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::{Alphabet, Symbol};
use base64::engine::general_purpose::{GeneralPurpose, PAD, STANDARD};
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::model::SdkAppId;

/// A decoded signature is about 300 bytes; more than this is not one.
const MAX_DECODED_BYTES: u64 = 16 * 1024;

/// Standard base64 with the three characters a URL would escape replaced: `+` by `*`, `/` by `-`, `=` by `_`.
static URL_BASE64: GeneralPurpose = {
    const PADDING: Symbol = match Symbol::new(b'_') {
        Some(symbol) => symbol,
        None => panic!("an underscore is a printable character"),
    };
    const ALPHABET: Alphabet = match Alphabet::new_with_padding(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789*-",
        PADDING,
    ) {
        Ok(alphabet) => alphabet,
        Err(_) => panic!("64 distinct printable characters are an alphabet"),
    };
    GeneralPurpose::new(&ALPHABET, PAD)
};

/// The secret key of an IM app, as the console shows it: its characters are the key, they are not decoded.
#[derive(Clone)]
pub struct SecretKey(SecretString);

impl SecretKey {
    #[must_use]
    pub fn new(key: &str) -> Self {
        Self(SecretString::from(key))
    }

    /// Whether it has the form of every key seen so far: 64 hexadecimal characters.
    #[must_use]
    pub fn looks_usual(&self) -> bool {
        let key = self.0.expose_secret();
        key.len() == 64 && key.bytes().all(|b| b.is_ascii_hexdigit())
    }

    /// The key itself, for the one command that writes it to its file.
    pub(crate) fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    fn authenticate(&self, text: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose_secret().as_bytes())
            .expect("HMAC takes a key of any length");
        mac.update(text.as_bytes());
        mac
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(hidden)")
    }
}

/// A signature ready for a URL. Whoever holds it acts as the identifier it names: never log it.
#[derive(Clone)]
pub struct UserSig(SecretString);

impl UserSig {
    /// The text itself, for the one place that builds a request and for the command that prints it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for UserSig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserSig(hidden)")
    }
}

/// What a signature states. The identifier is the account that acts; the API wants an app administrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub sdk_app_id: SdkAppId,
    pub identifier: String,
    /// Unix seconds.
    pub issued_at: i64,
    pub lifetime: Duration,
}

/// Why a text is not a valid signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUserSig {
    #[error("the UserSig is not substituted base64 of zlib data of a JSON object")]
    Undecodable,
    #[error("the UserSig was signed with another key")]
    WrongKey,
    #[error("the UserSig has expired")]
    Expired,
}

#[derive(Serialize, Deserialize)]
struct Document {
    #[serde(rename = "TLS.ver")]
    version: String,
    #[serde(rename = "TLS.identifier")]
    identifier: String,
    #[serde(rename = "TLS.sdkappid")]
    sdk_app_id: i64,
    #[serde(rename = "TLS.expire")]
    expire: u64,
    #[serde(rename = "TLS.time")]
    time: i64,
    #[serde(rename = "TLS.userbuf", default, skip_serializing_if = "Option::is_none")]
    userbuf: Option<String>,
    #[serde(rename = "TLS.sig")]
    sig: String,
}

impl Document {
    fn signed_text(&self) -> String {
        let mut text = format!(
            "TLS.identifier:{}\nTLS.sdkappid:{}\nTLS.time:{}\nTLS.expire:{}\n",
            self.identifier, self.sdk_app_id, self.time, self.expire
        );
        if let Some(userbuf) = &self.userbuf {
            text.push_str("TLS.userbuf:");
            text.push_str(userbuf);
            text.push('\n');
        }
        text
    }
}

/// Makes a signature.
#[must_use]
pub fn sign(claims: &Claims, key: &SecretKey) -> UserSig {
    sign_with_userbuf(claims, None, key)
}

fn sign_with_userbuf(claims: &Claims, userbuf: Option<&[u8]>, key: &SecretKey) -> UserSig {
    let mut document = Document {
        version: "2.0".to_owned(),
        identifier: claims.identifier.clone(),
        sdk_app_id: claims.sdk_app_id.get(),
        expire: claims.lifetime.as_secs(),
        time: claims.issued_at,
        userbuf: userbuf.map(|bytes| STANDARD.encode(bytes)),
        sig: String::new(),
    };
    let mac = key.authenticate(&document.signed_text());
    document.sig = STANDARD.encode(mac.finalize().into_bytes());
    let json = serde_json::to_vec(&document).expect("strings and numbers always serialise");
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    let compressed =
        zlib.write_all(&json).and_then(|()| zlib.finish()).expect("writing to memory does not fail");
    UserSig(SecretString::from(URL_BASE64.encode(compressed)))
}

/// Decodes a signature and checks it against a key and a time (unix seconds).
///
/// # Errors
/// If it cannot be decoded, was signed with another key, or has expired.
pub fn verify(usersig: &str, key: &SecretKey, now: i64) -> Result<Claims, InvalidUserSig> {
    let document = decode(usersig).ok_or(InvalidUserSig::Undecodable)?;
    let sig = STANDARD.decode(&document.sig).map_err(|_| InvalidUserSig::Undecodable)?;
    key.authenticate(&document.signed_text()).verify_slice(&sig).map_err(|_| InvalidUserSig::WrongKey)?;
    let lifetime = i64::try_from(document.expire).unwrap_or(i64::MAX);
    if now > document.time.saturating_add(lifetime) {
        return Err(InvalidUserSig::Expired);
    }
    Ok(Claims {
        sdk_app_id: SdkAppId::new(document.sdk_app_id).ok_or(InvalidUserSig::Undecodable)?,
        identifier: document.identifier,
        issued_at: document.time,
        lifetime: Duration::from_secs(document.expire),
    })
}

fn decode(usersig: &str) -> Option<Document> {
    let compressed = URL_BASE64.decode(usersig).ok()?;
    let mut json = Vec::new();
    ZlibDecoder::new(compressed.as_slice()).take(MAX_DECODED_BYTES).read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Published vectors: PyPI tls-sig-api-v2 1.1 and npm tls-sig-api-v2 1.0.2 agree on the signatures.
    const KEY: &str = "5bd2850fff3ecb11d7c805251c51ee463a25727bddc2385f3fa8bfee1bb93b5e";
    const SIG: &str = "yLAe+w7WUeUuqbV9h/TX78u21oTGi+i9Zp1u3PpnY60=";
    const SIG_WITH_USERBUF: &str = "8genqljbpEaJZVMsIbmfmZ/85Nx6/a80jcuFHDVj+RM=";
    const BY_PYTHON: &str = "eJyrVgrxCdYrSy1SslJQMtIzUNJRAItkpqTmlWSmZUIkElNyM-Myi0uKEkvyi2BKilOyEwsKMlOACgxNDKAAKpdaUZBZlAqUsTAzgQuWZOaChAzN0RQXZ6aDLKn0cUzVLjcPD00NLS1MCrPM0A*JMLcoNTLMD3HP1M60jCowLDUOKMiLNDOwVaoFAD4PNPI_";
    const BY_NODE: &str = "eJyrVgrxCdYrSy1SslIy0jNQ0gHzM1NS80oy0zLBwokpuZl5mcUlRYkl*UVQBcUp2YkFBZkpSlaGJgZQAJEpycxNVbIyNEcVTa0oyCxKVbKyMDOBCRVnpitZKVX6OKZql5uHh6aGlhYmhVlm6IdEmFuUGhnmh7hnamdaRhUYlhoHFORFmhnYKtUCAK0SM5I_";

    fn published() -> Claims {
        Claims {
            sdk_app_id: SdkAppId::new(1_400_000_000).unwrap(),
            identifier: "administrator".to_owned(),
            issued_at: 1_700_000_000,
            lifetime: Duration::from_secs(86_400),
        }
    }

    #[test]
    fn a_signature_equals_the_published_one_with_and_without_userbuf() {
        let key = SecretKey::new(KEY);
        let plain = decode(sign(&published(), &key).expose()).unwrap();
        assert_eq!(plain.sig, SIG);
        let with_userbuf = sign_with_userbuf(&published(), Some(b"abc"), &key);
        let with_userbuf = decode(with_userbuf.expose()).unwrap();
        assert_eq!(with_userbuf.userbuf.as_deref(), Some("YWJj"));
        assert_eq!(with_userbuf.sig, SIG_WITH_USERBUF);
    }

    #[test]
    fn signatures_of_the_official_implementations_verify() {
        for usersig in [BY_PYTHON, BY_NODE] {
            let claims = verify(usersig, &SecretKey::new(KEY), 1_700_000_001).unwrap();
            assert_eq!(claims, published());
        }
    }

    #[test]
    fn a_signature_needs_no_escaping_in_a_query_string() {
        for n in 0..200 {
            let claims = Claims { identifier: "x".repeat(n), ..published() };
            let usersig = sign(&claims, &SecretKey::new(KEY));
            assert!(usersig.expose().bytes().all(|b| b.is_ascii_alphanumeric() || b"*-_".contains(&b)));
            assert_eq!(verify(usersig.expose(), &SecretKey::new(KEY), 1_700_000_000), Ok(claims));
        }
    }

    #[test]
    fn another_key_an_expired_and_a_mangled_signature_are_told_apart() {
        let usersig = sign(&published(), &SecretKey::new(KEY));
        let text = usersig.expose();
        let verify = |text: &str, key: &str, now| verify(text, &SecretKey::new(key), now);
        assert_eq!(verify(text, "another", 1_700_000_000), Err(InvalidUserSig::WrongKey));
        assert_eq!(verify(text, KEY, 1_700_086_401), Err(InvalidUserSig::Expired));
        assert_eq!(verify(&text[..text.len() - 8], KEY, 1_700_000_000), Err(InvalidUserSig::Undecodable));
        assert_eq!(verify("", KEY, 1_700_000_000), Err(InvalidUserSig::Undecodable));
    }

    #[test]
    fn neither_key_nor_signature_shows_in_debug() {
        let key = SecretKey::new(KEY);
        let shown = format!("{key:?} {:?}", sign(&published(), &key));
        assert!(!shown.contains(&KEY[..8]) && !shown.contains("eJ"), "{shown}");
    }
}
