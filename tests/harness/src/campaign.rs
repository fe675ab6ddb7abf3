//! How much of a campaign runs: everything in `tests/run`, which sets `FULL_CAMPAIGNS`, and a sample in a plain `cargo test`.

/// True if campaigns run every case.
pub fn is_full() -> bool {
    std::env::var_os("FULL_CAMPAIGNS").is_some_and(|value| !value.is_empty())
}

/// The number in this environment variable. Without the variable, `full` in a full run and `quick` otherwise.
pub fn number(variable: &str, full: u64, quick: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
        Err(_) if is_full() => full,
        Err(_) => quick,
    }
}

/// Chooses the cases of an exhaustive campaign, which are counted in their order.
///
/// If `one_in` has no divisor in common with the number of cases of one kind, the sample has cases of every kind.
#[derive(Debug)]
pub struct Sample {
    one_in: u64,
    next: u64,
}

impl Sample {
    /// Every case in a full run, otherwise every `one_in`-th.
    pub fn of_one_in(one_in: u64) -> Self {
        Self { one_in: if is_full() { 1 } else { one_in }, next: 0 }
    }

    /// Returns true if the next case runs.
    pub fn takes_next(&mut self) -> bool {
        let taken = self.next.is_multiple_of(self.one_in);
        self.next += 1;
        taken
    }
}
