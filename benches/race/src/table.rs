//! Plain columns on standard output.

/// Rows of equally many cells.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Begins with its heads.
    pub fn new(heads: &[&str]) -> Self {
        Self {
            rows: vec![heads.iter().map(ToString::to_string).collect()],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Prints it.
    pub fn print(&self) {
        for row in &self.rows {
            let cells = row
                .iter()
                .enumerate()
                .map(|(column, cell)| self.pad(column, cell));
            println!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
    }

    /// Names to the left, figures to the right.
    fn pad(&self, column: usize, cell: &str) -> String {
        let width = self.width(column);
        if column == 0 {
            format!("{cell:<width$}")
        } else {
            format!("{cell:>width$}")
        }
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    }
}

/// A figure, or a dash where there is none.
pub fn cell(figure: Option<impl ToString>) -> String {
    figure.map_or_else(|| "-".into(), |figure| figure.to_string())
}
