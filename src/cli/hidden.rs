//! Reads a secret from the terminal without echo.
//!
//! Crates such as rpassword are not used, because they leave the echo off if Ctrl-C ends the
//! process.

use std::io::{self, ErrorKind};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use secrecy::SecretString;

use super::output::prompt;

/// Maximum length of a secret in bytes. Every key is shorter.
const MAX_BYTES: usize = 4096;

/// Restores the mode of the terminal on stdin when dropped.
struct RestoreTerminal(Termios);

impl Drop for RestoreTerminal {
    fn drop(&mut self) {
        // A failure cannot be reported from here.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
        prompt("\n");
    }
}

/// Asks a question on the terminal. Fails with `Interrupted` on Ctrl-C, and with `UnexpectedEof` on
/// Ctrl-D or if the terminal is closed.
pub(super) fn ask(question: &str) -> io::Result<SecretString> {
    let before = tcgetattr(io::stdin())?;
    let mut hiding = before.clone();
    // Without ISIG, Ctrl-C arrives as a character, so that the terminal is restored before the
    // program ends.
    hiding.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    hiding.special_codes[SpecialCodeIndex::VMIN] = 1;
    hiding.special_codes[SpecialCodeIndex::VTIME] = 0;
    let _restore = RestoreTerminal(before);
    tcsetattr(io::stdin(), OptionalActions::Now, &hiding)?;
    // The question is printed after the change of mode, so that an answer that is typed or pasted
    // at once is not echoed.
    prompt(question);
    read_line(io::stdin().lock())
}

fn read_line(terminal: impl io::BufRead) -> io::Result<SecretString> {
    // The buffer never grows: a reallocation would leave a copy of the secret in memory.
    let mut line: Vec<u8> = Vec::with_capacity(MAX_BYTES);
    for byte in terminal.bytes() {
        match byte? {
            b'\n' | b'\r' => {
                let text = String::from_utf8(line).map_err(|_| ErrorKind::InvalidData)?;
                return Ok(SecretString::from(text));
            }
            3 => return Err(ErrorKind::Interrupted.into()),
            4 => break,
            // Backspace and Delete, then Ctrl-U.
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
    fn backspace_and_ctrl_u_edit_the_line() {
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
