//! Escapes text from outside before it reaches a terminal, a log line or another line-based format.
//!
//! Group ids, error messages of servers and names from the database can contain characters that end
//! a line, move the cursor of a terminal, reverse the direction of text or have no width. Each of
//! them is written as an escape, so that the reader sees it and no line can be forged.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Returns the text on one line: every unsafe character is escaped, line breaks and tabs included.
#[must_use]
pub fn one_line(text: &str) -> Cow<'_, str> {
    escape(text, is_unsafe, push_as_text)
}

/// Returns whether a text contains a character that [`one_line`] escapes.
#[must_use]
pub fn has_unsafe(text: &str) -> bool {
    text.contains(is_unsafe)
}

/// Returns text of several lines. Line breaks and tabs stay; every other unsafe character is
/// escaped.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| is_unsafe(c) && !matches!(c, '\n' | '\t'), push_as_text)
}

/// Returns JSON text with unsafe characters as `\u` escapes. They occur only inside strings, so the
/// values stay the same. Line breaks between tokens stay.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    escape(text, |c| is_unsafe(c) && c != '\n', push_as_json)
}

/// Returns a coloured line with every unsafe character escaped, except those of SGR sequences
/// (`ESC [ … m`).
#[must_use]
pub fn coloured(line: &str) -> Cow<'_, str> {
    if !line.contains(is_unsafe) {
        return Cow::Borrowed(line);
    }
    let mut escaped = String::with_capacity(line.len() + 16);
    let mut rest = line;
    loop {
        let (plain, sequence) = rest.split_at(rest.find('\x1b').unwrap_or(rest.len()));
        escaped.push_str(&one_line(plain));
        rest = if let Some(length) = sgr_length(sequence) {
            escaped.push_str(&sequence[..length]);
            &sequence[length..]
        } else if let Some(after) = sequence.strip_prefix('\x1b') {
            push_as_text(&mut escaped, '\x1b');
            after
        } else {
            return Cow::Owned(escaped);
        };
    }
}

/// Returns the length of the SGR sequence with which a text begins.
fn sgr_length(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[end..].starts_with('m').then_some("\x1b[".len() + end + 1)
}

fn escape(text: &str, is_escaped: impl Fn(char) -> bool, push: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_escaped(c) {
            push(&mut escaped, c);
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

fn push_as_text(text: &mut String, c: char) {
    text.extend(c.escape_default());
}

fn push_as_json(text: &mut String, c: char) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        // Writing to a String cannot fail.
        let _ = write!(text, "\\u{unit:04x}");
    }
}

/// Returns whether a character is a control character, a line separator, a bidirectional control or
/// a character without a width.
fn is_unsafe(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    matches!(
        u32::from(c),
        // C1 controls, among them the one-byte forms of ESC [ and ESC ].
        0x80..=0x9f
            // Soft hyphen, grapheme joiner, the Arabic letter mark, and fillers of Hangul and
            // Khmer.
            | 0xad | 0x34f | 0x61c | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x3164 | 0xffa0
            // Mongolian selectors and the vowel separator.
            | 0x180b..=0x180f
            // Zero-width characters and direction marks; separators of lines and paragraphs,
            // embeddings and overrides; invisible operators, isolates and deprecated formats.
            | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f
            // Variation selectors, the byte order mark, annotations.
            | 0xfe00..=0xfe0f | 0xfeff | 0xfff0..=0xfffb
            // Format characters of shorthand and of music; tags and more variation selectors.
            | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0000..=0xe0fff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text that breaks lines, moves the cursor, sets colours, reverses the direction and hides
    /// characters.
    const HOSTILE: &str = "a\nb\rc\td\x1b[2Je\u{9b}31mf\u{202e}g\u{200b}h\u{2028}i\u{feff}j\u{e0041}\x7f\0";

    #[test]
    fn one_line_has_no_unsafe_character() {
        let expected = "a\\nb\\rc\\td\\u{1b}[2Je\\u{9b}31mf\\u{202e}g\\u{200b}h\\u{2028}i\\u{feff}j\\u{e0041}\\u{7f}\\u{0}";
        assert_eq!(one_line(HOSTILE), expected);
    }

    #[test]
    fn ordinary_text_of_any_script_is_not_changed() {
        for text in ["", "a b", "@TGS#_@TGS#cQVLVHIM62CJ", "群组 Ελλάς 👍", "it's \"quoted\" \\n"] {
            for escape in [one_line, lines, json, coloured] {
                assert!(matches!(escape(text), Cow::Borrowed(same) if same == text), "{text}");
            }
        }
    }

    #[test]
    fn several_lines_keep_their_breaks_and_tabs_only() {
        assert_eq!(lines("a\n\tb\r\u{2028}\u{202e}"), "a\n\tb\\r\\u{2028}\\u{202e}");
    }

    #[test]
    fn escaped_json_has_the_same_value() {
        let value = serde_json::json!({ HOSTILE: [HOSTILE, "群组"] });
        let text = serde_json::to_string_pretty(&value).unwrap();
        let escaped = json(&text);
        assert!(!escaped.contains(|c| is_unsafe(c) && c != '\n'), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }

    #[test]
    fn colours_stay_and_other_sequences_do_not() {
        assert_eq!(coloured("\x1b[2m10:00\x1b[0m \x1b[31;1mERROR"), "\x1b[2m10:00\x1b[0m \x1b[31;1mERROR");
        assert_eq!(coloured("\x1b[2J\x1b]0;title\x07\x1b[31"), "\\u{1b}[2J\\u{1b}]0;title\\u{7}\\u{1b}[31");
        assert_eq!(coloured("\x1b[1mä\u{202e}\x1b[0m"), "\x1b[1mä\\u{202e}\x1b[0m");
    }
}
