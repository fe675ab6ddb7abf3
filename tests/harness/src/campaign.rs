//! The number of cases of an exhaustive or randomized test. `tests/run` sets `FULL_CAMPAIGNS` and
//! runs all cases. A plain `cargo test` runs a sample.

/// Returns true if every case runs.
pub fn is_full() -> bool {
    std::env::var_os("FULL_CAMPAIGNS").is_some_and(|value| !value.is_empty())
}

/// Returns the number in this environment variable. Without it, returns `full` if every case runs
/// and `quick` otherwise.
pub fn number(variable: &str, full: u64, quick: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
        Err(_) if is_full() => full,
        Err(_) => quick,
    }
}

/// Chooses the cases of an exhaustive test, in their order.
///
/// `one_in` should be coprime to the number of cases of each kind, so that the sample has cases of
/// every kind.
#[derive(Debug)]
pub struct Sample {
    one_in: u64,
    next: u64,
}

impl Sample {
    /// Chooses every case if every case runs, and every `one_in`-th case otherwise.
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
