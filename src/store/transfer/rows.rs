//! Rows in a form that is common to both engines, and a checksum of many rows.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Column as _, Row as _, TypeInfo as _, ValueRef as _};

/// A value of a column. PostgreSQL's booleans become 0 and 1, as SQLite stores them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Cell {
    Null,
    Integer(i64),
    Text(String),
}

/// The values of a row, in the order of the columns.
pub(super) type RowCells = Vec<Cell>;

pub(super) fn cells_from_sqlite(row: &SqliteRow) -> Result<RowCells, sqlx::Error> {
    let cell = |column: usize| {
        let value = row.try_get_raw(column)?;
        // For NULL, SQLite reports the type of the column.
        if value.is_null() {
            return Ok(Cell::Null);
        }
        Ok(match value.type_info().name() {
            "INTEGER" => Cell::Integer(row.try_get_unchecked(column)?),
            _ => Cell::Text(row.try_get_unchecked(column)?),
        })
    };
    (0..row.len()).map(cell).collect()
}

pub(super) fn cells_from_postgres(row: &PgRow) -> Result<RowCells, sqlx::Error> {
    let cell = |column: usize| {
        Ok(match row.column(column).type_info().name() {
            "INT8" => row.try_get::<Option<i64>, _>(column)?.map_or(Cell::Null, Cell::Integer),
            "BOOL" => {
                row.try_get::<Option<bool>, _>(column)?.map_or(Cell::Null, |flag| Cell::Integer(flag.into()))
            }
            _ => row.try_get::<Option<String>, _>(column)?.map_or(Cell::Null, Cell::Text),
        })
    };
    (0..row.len()).map(cell).collect()
}

/// The number of rows, and a checksum that does not depend on their order. Digests are comparable
/// only within one process, because `DefaultHasher` may change between versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) rows: u64,
    /// The sum of the hashes of the rows. A sum does not depend on their order.
    sum: u64,
    /// The sum of a second hash of each row. Together the two sums have 128 bits.
    second_sum: u64,
}

impl Digest {
    /// Adds a row.
    pub(super) fn add(&mut self, row: &RowCells) {
        let mut hasher = DefaultHasher::new();
        row.hash(&mut hasher);
        let first_hash = hasher.finish();
        first_hash.hash(&mut hasher);
        self.rows += 1;
        self.sum = self.sum.wrapping_add(first_hash);
        self.second_sum = self.second_sum.wrapping_add(hasher.finish());
    }
}

/// Appends a row to `text` in the text format of COPY.
pub(super) fn append_as_copy_text(row: &RowCells, text: &mut Vec<u8>) {
    for (column, cell) in row.iter().enumerate() {
        if column > 0 {
            text.push(b'\t');
        }
        match cell {
            Cell::Null => text.extend(b"\\N"),
            Cell::Integer(number) => text.extend(number.to_string().as_bytes()),
            Cell::Text(value) => {
                for byte in value.bytes() {
                    match byte {
                        b'\\' => text.extend(b"\\\\"),
                        b'\t' => text.extend(b"\\t"),
                        b'\n' => text.extend(b"\\n"),
                        b'\r' => text.extend(b"\\r"),
                        byte => text.push(byte),
                    }
                }
            }
        }
    }
    text.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: i64, text: &str) -> RowCells {
        vec![Cell::Integer(id), Cell::Text(text.to_owned()), Cell::Null]
    }

    fn digest(rows: &[RowCells]) -> Digest {
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
