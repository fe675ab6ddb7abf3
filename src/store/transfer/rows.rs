//! Rows in a form that is common to both engines, and a checksum of many rows.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Column as _, Row as _, TypeInfo as _, ValueRef as _};

/// A value. PostgreSQL's booleans become 0 and 1, as SQLite stores them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Cell {
    Null,
    Integer(i64),
    Text(String),
}

pub(super) type Cells = Vec<Cell>;

pub(super) fn cells_from_sqlite(row: &SqliteRow) -> Result<Cells, sqlx::Error> {
    let cell = |at: usize| {
        let value = row.try_get_raw(at)?;
        // SQLite reports the type of the column for NULL.
        if value.is_null() {
            return Ok(Cell::Null);
        }
        Ok(match value.type_info().name() {
            "INTEGER" => Cell::Integer(row.try_get_unchecked(at)?),
            _ => Cell::Text(row.try_get_unchecked(at)?),
        })
    };
    (0..row.len()).map(cell).collect()
}

pub(super) fn cells_from_postgres(row: &PgRow) -> Result<Cells, sqlx::Error> {
    let cell = |at: usize| {
        Ok(match row.column(at).type_info().name() {
            "INT8" => row.try_get::<Option<i64>, _>(at)?.map_or(Cell::Null, Cell::Integer),
            "BOOL" => {
                row.try_get::<Option<bool>, _>(at)?.map_or(Cell::Null, |flag| Cell::Integer(flag.into()))
            }
            _ => row.try_get::<Option<String>, _>(at)?.map_or(Cell::Null, Cell::Text),
        })
    };
    (0..row.len()).map(cell).collect()
}

/// The number of rows, and a checksum that does not depend on their order. Only comparable within
/// one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) rows: u64,
    sum: u64,
    /// The sum of a second hash. Together the two sums have 128 bits.
    second_sum: u64,
}

impl Digest {
    pub(super) fn add(&mut self, row: &Cells) {
        let mut hasher = DefaultHasher::new();
        row.hash(&mut hasher);
        let first = hasher.finish();
        first.hash(&mut hasher);
        self.rows += 1;
        self.sum = self.sum.wrapping_add(first);
        self.second_sum = self.second_sum.wrapping_add(hasher.finish());
    }
}

/// Appends a row in the text format of COPY.
pub(super) fn append_as_copy_text(row: &Cells, to: &mut Vec<u8>) {
    for (at, cell) in row.iter().enumerate() {
        if at > 0 {
            to.push(b'\t');
        }
        match cell {
            Cell::Null => to.extend(b"\\N"),
            Cell::Integer(number) => to.extend(number.to_string().as_bytes()),
            Cell::Text(text) => {
                for byte in text.bytes() {
                    match byte {
                        b'\\' => to.extend(b"\\\\"),
                        b'\t' => to.extend(b"\\t"),
                        b'\n' => to.extend(b"\\n"),
                        b'\r' => to.extend(b"\\r"),
                        byte => to.push(byte),
                    }
                }
            }
        }
    }
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: i64, text: &str) -> Cells {
        vec![Cell::Integer(id), Cell::Text(text.to_owned()), Cell::Null]
    }

    fn digest(rows: &[Cells]) -> Digest {
        let mut digest = Digest::default();
        rows.iter().for_each(|row| digest.add(row));
        digest
    }

    #[test]
    fn a_checksum_depends_on_every_value_and_not_on_the_order_of_the_rows() {
        let rows = [row(1, "a"), row(2, "b")];
        assert_eq!(digest(&rows), digest(&[row(2, "b"), row(1, "a")]));
        for other in [
            vec![row(1, "a")],
            vec![row(1, "b"), row(2, "a")],
            vec![row(1, "a"), row(2, "b"), row(2, "b")],
            vec![row(1, "a"), vec![Cell::Integer(2), Cell::Null, Cell::Text("b".to_owned())]],
        ] {
            assert_ne!(digest(&rows), digest(&other), "{other:?}");
        }
    }

    #[test]
    fn characters_that_copy_would_misread_are_escaped() {
        let mut text = Vec::new();
        append_as_copy_text(&row(-7, "a\tb\\N\nc\r陌"), &mut text);
        assert_eq!(String::from_utf8(text).unwrap(), "-7\ta\\tb\\\\N\\nc\\r陌\t\\N\n");
    }
}
