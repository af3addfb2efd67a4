//! Tables for people, JSON for programs.

use std::fmt;

use serde_json::Value;
use trawl_shared::untrusted::printable_json;

/// JSON on one line, without characters that a terminal would act on.
pub(crate) fn json_text(value: &Value) -> String {
    printable_json(&value.to_string())
}

/// Rows whose columns stand below each other. Columns of numbers stand to the right.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these titles.
    pub(crate) fn new(titles: &[&str]) -> Self {
        Self { rows: vec![titles.iter().map(|&title| title.to_owned()).collect()] }
    }

    /// Adds a row, with a cell for each title.
    pub(crate) fn row<const CELLS: usize>(&mut self, cells: [String; CELLS]) {
        debug_assert_eq!(CELLS, self.rows[0].len(), "a cell for each title");
        self.rows.push(cells.into());
    }

    fn column(&self, index: usize) -> impl Iterator<Item = &str> {
        self.rows.iter().map(move |row| row[index].as_str())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_number = |cell: &str| cell.starts_with(|char: char| char.is_ascii_digit());
        let columns: Vec<(usize, bool)> = (0..self.rows[0].len())
            .map(|index| {
                let width = self.column(index).map(|cell| cell.chars().count()).max();
                (width.unwrap_or(0), self.column(index).skip(1).all(is_number))
            })
            .collect();
        for (number, row) in self.rows.iter().enumerate() {
            let cells = row.iter().zip(&columns).map(|(cell, (width, is_number))| {
                if *is_number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            let end = if number == 0 { "" } else { "\n" };
            write!(f, "{end}{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_to_the_left_and_numbers_to_the_right() {
        let mut table = Table::new(&["NAME", "PAGES"]);
        table.row(["a".into(), "5".into()]);
        table.row(["längere".into(), "12345678".into()]);
        assert_eq!(table.to_string(), "NAME        PAGES\na               5\nlängere  12345678");
    }
}
