//! A question whose answer does not show on the terminal. Ready-made ones end with the program when someone presses
//! Ctrl-C, and leave behind a terminal that shows nothing any more.

use std::io::{self, ErrorKind, Write as _};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use secrecy::SecretString;

/// Longer than any key.
const MAX_BYTES: usize = 4096;

/// The terminal on stdin as it was, to be so again.
struct AsItWas(Termios);

impl Drop for AsItWas {
    fn drop(&mut self) {
        // Nobody is left to tell if that fails.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
        eprintln!();
    }
}

/// Asks on the terminal. `Interrupted` is Ctrl-C, `UnexpectedEof` Ctrl-D or the end of the terminal.
pub(super) fn ask(question: &str) -> io::Result<SecretString> {
    let before = tcgetattr(io::stdin())?;
    let mut hiding = before.clone();
    // Without ISIG Ctrl-C is a character like others, and the terminal is itself again before the program ends.
    hiding.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    hiding.special_codes[SpecialCodeIndex::VMIN] = 1;
    hiding.special_codes[SpecialCodeIndex::VTIME] = 0;
    let _as_it_was = AsItWas(before);
    tcsetattr(io::stdin(), OptionalActions::Now, &hiding)?;
    // Only now: whoever sees the question may paste the answer at once.
    eprint!("{question}");
    io::stderr().flush()?;
    read_line(io::stdin().lock())
}

fn read_line(terminal: impl io::BufRead) -> io::Result<SecretString> {
    // Never grows, so that no half of it stays somewhere in memory.
    let mut line: Vec<u8> = Vec::with_capacity(MAX_BYTES);
    for byte in terminal.bytes() {
        match byte? {
            b'\n' | b'\r' => {
                let text = String::from_utf8(line).map_err(|_| ErrorKind::InvalidData)?;
                return Ok(SecretString::from(text));
            }
            3 => return Err(ErrorKind::Interrupted.into()),
            4 => break,
            // Backspace, Ctrl-U.
            8 | 127 => _ = line.pop(),
            21 => line.clear(),
            _ if line.len() == MAX_BYTES => return Err(ErrorKind::InvalidData.into()),
            byte => line.push(byte),
        }
    }
    Err(ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_line_can_be_mended_while_it_is_typed() {
        let typed = |bytes: &[u8]| read_line(bytes).map(|line| line.expose_secret().to_owned());
        assert_eq!(typed(b"abx\x7fc\nrest").unwrap(), "abc");
        assert_eq!(typed(b"wrong\x15right\r").unwrap(), "right");
        assert_eq!(typed(b"\n").unwrap(), "");
        assert_eq!(typed(b"ab\x03").unwrap_err().kind(), ErrorKind::Interrupted);
        assert_eq!(typed(b"ab\x04").unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(typed(b"ab").unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert!(typed(&[b'a'; MAX_BYTES + 1]).is_err());
    }
}
