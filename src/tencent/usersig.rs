//! Creates and verifies UserSigs, the signatures of REST calls (TLSSigAPIv2, document 269/32688).
//! Pure: the time is a parameter, and nothing is cached.
//!
//! The format is implemented here, with crates for HMAC, zlib and base64, because no maintained
//! crate implements TLSSigAPIv2.

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

/// The maximum size of a decoded signature, against decompression bombs. Signatures have about 300
/// bytes.
const MAX_DECODED_BYTES: u64 = 16 * 1024;

/// Base64 in which the three characters that must be escaped in URLs are replaced: `+` by `*`, `/`
/// by `-` and `=` by `_`.
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

/// The secret key of an IM app, as the console shows it. The bytes of this text are the key; the
/// text is not decoded.
#[derive(Clone)]
pub struct SecretKey(SecretString);

impl SecretKey {
    #[must_use]
    pub fn new(key: &str) -> Self {
        Self(SecretString::from(key))
    }

    /// Returns whether the key consists of 64 hexadecimal digits, as all known keys do.
    #[must_use]
    pub fn has_usual_form(&self) -> bool {
        let key = self.0.expose_secret();
        key.len() == 64 && key.bytes().all(|b| b.is_ascii_hexdigit())
    }

    /// Returns the key itself, for the command that writes it to its file.
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

/// A signature, encoded for a URL. It grants the rights of its identifier, so it must never be
/// logged.
#[derive(Clone)]
pub struct UserSig(SecretString);

impl UserSig {
    /// Returns the signature itself, for the code that builds a request and for the command that
    /// prints it.
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

/// The signed content of a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub sdk_app_id: SdkAppId,
    /// The account that makes the call. The API accepts only administrators of the app.
    pub identifier: String,
    /// In unix seconds.
    pub issued_at: i64,
    pub lifetime: Duration,
}

/// Why a signature is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUserSig {
    #[error("the UserSig cannot be decoded: it must be modified base64 of a zlib-compressed JSON object")]
    Undecodable,
    #[error("the UserSig was signed with another key")]
    WrongKey,
    #[error("the UserSig has expired")]
    Expired,
}

/// The JSON object that a UserSig encodes.
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
    /// Returns the text whose HMAC is the field `TLS.sig`.
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

/// Creates a signature.
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

/// Decodes a signature and verifies it with a key, at the time `now` in unix seconds.
///
/// # Errors
/// If the signature cannot be decoded, was created with another key, or has expired.
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

    // Test vectors from PyPI tls-sig-api-v2 1.1 and npm tls-sig-api-v2 1.0.2, which produce the
    // same signatures.
    const KEY: &str = "5bd2850fff3ecb11d7c805251c51ee463a25727bddc2385f3fa8bfee1bb93b5e";
    const SIG: &str = "yLAe+w7WUeUuqbV9h/TX78u21oTGi+i9Zp1u3PpnY60=";
    const SIG_WITH_USERBUF: &str = "8genqljbpEaJZVMsIbmfmZ/85Nx6/a80jcuFHDVj+RM=";
    const BY_PYTHON: &str = "eJyrVgrxCdYrSy1SslJQMtIzUNJRAItkpqTmlWSmZUIkElNyM-Myi0uKEkvyi2BKilOyEwsKMlOACgxNDKAAKpdaUZBZlAqUsTAzgQuWZOaChAzN0RQXZ6aDLKn0cUzVLjcPD00NLS1MCrPM0A*JMLcoNTLMD3HP1M60jCowLDUOKMiLNDOwVaoFAD4PNPI_";
    const BY_NODE: &str = "eJyrVgrxCdYrSy1SslIy0jNQ0gHzM1NS80oy0zLBwokpuZl5mcUlRYkl*UVQBcUp2YkFBZkpSlaGJgZQAJEpycxNVbIyNEcVTa0oyCxKVbKyMDOBCRVnpitZKVX6OKZql5uHh6aGlhYmhVlm6IdEmFuUGhnmh7hnamdaRhUYlhoHFORFmhnYKtUCAK0SM5I_";

    fn test_claims() -> Claims {
        Claims {
            sdk_app_id: SdkAppId::new(1_400_000_000).unwrap(),
            identifier: "administrator".to_owned(),
            issued_at: 1_700_000_000,
            lifetime: Duration::from_secs(86_400),
        }
    }

    #[test]
    fn a_signature_equals_the_test_vector_with_and_without_userbuf() {
        let key = SecretKey::new(KEY);
        let plain = decode(sign(&test_claims(), &key).expose()).unwrap();
        assert_eq!(plain.sig, SIG);
        let with_userbuf = sign_with_userbuf(&test_claims(), Some(b"abc"), &key);
        let with_userbuf = decode(with_userbuf.expose()).unwrap();
        assert_eq!(with_userbuf.userbuf.as_deref(), Some("YWJj"));
        assert_eq!(with_userbuf.sig, SIG_WITH_USERBUF);
    }

    #[test]
    fn signatures_of_the_official_implementations_verify() {
        for usersig in [BY_PYTHON, BY_NODE] {
            let claims = verify(usersig, &SecretKey::new(KEY), 1_700_000_001).unwrap();
            assert_eq!(claims, test_claims());
        }
    }

    #[test]
    fn a_signature_needs_no_escaping_in_a_query_string() {
        for n in 0..200 {
            let claims = Claims { identifier: "x".repeat(n), ..test_claims() };
            let usersig = sign(&claims, &SecretKey::new(KEY));
            assert!(usersig.expose().bytes().all(|b| b.is_ascii_alphanumeric() || b"*-_".contains(&b)));
            assert_eq!(verify(usersig.expose(), &SecretKey::new(KEY), 1_700_000_000), Ok(claims));
        }
    }

    #[test]
    fn a_wrong_key_an_expired_and_a_truncated_signature_are_different_errors() {
        let usersig = sign(&test_claims(), &SecretKey::new(KEY));
        let text = usersig.expose();
        let verify = |text: &str, key: &str, now| verify(text, &SecretKey::new(key), now);
        assert_eq!(verify(text, "another", 1_700_000_000), Err(InvalidUserSig::WrongKey));
        assert_eq!(verify(text, KEY, 1_700_086_401), Err(InvalidUserSig::Expired));
        assert_eq!(verify(&text[..text.len() - 8], KEY, 1_700_000_000), Err(InvalidUserSig::Undecodable));
        assert_eq!(verify("", KEY, 1_700_000_000), Err(InvalidUserSig::Undecodable));
    }

    #[test]
    fn debug_output_shows_neither_key_nor_signature() {
        let key = SecretKey::new(KEY);
        let debug = format!("{key:?} {:?}", sign(&test_claims(), &key));
        assert!(!debug.contains(&KEY[..8]) && !debug.contains("eJ"), "{debug}");
    }
}
