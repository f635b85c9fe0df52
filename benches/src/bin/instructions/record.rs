//! The table in `docs/performance/instructions.md`.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use pool_benches::Outcome;

/// Part and name of a step, and its instructions.
pub(crate) type Count = ((String, String), f64);

/// What has been counted, and by what.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// What the counts depend on besides the code.
    pub(crate) tools: String,
    pub(crate) counts: Vec<Count>,
}

const TITLE: &str = "# Instructions of each step of a tiny task

Written by `cargo run --release -p pool-benches --bin instructions -- --record`; `benches/README.md` explains it. A step
that takes 3 % more or fewer is a failed `--check`. The steps are in `benches/src/bin/instructions/steps/`.

";

/// What the line that names the tools begins with.
const TOOLS: &str = "Counted with ";

impl Record {
    fn path() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/performance/instructions.md")
    }

    /// What has been recorded.
    pub(crate) fn read() -> Outcome<Self> {
        let path = Self::path();
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("there is no record to compare with, {}: {error}", path.display()))?;
        let tools = text.lines().find_map(|line| line.strip_prefix(TOOLS)?.strip_suffix('.'));
        Ok(Self {
            tools: tools.unwrap_or_default().to_owned(),
            counts: text.lines().filter_map(row).collect(),
        })
    }

    pub(crate) fn write(&self) -> Outcome<()> {
        let path = Self::path();
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        Ok(fs::write(path, format!("{TITLE}{TOOLS}{}.\n\n{}", self.tools, self.table()))?)
    }

    /// The table, as it is recorded.
    pub(crate) fn table(&self) -> String {
        let mut table = "| part | step | instructions |\n|---|---|---|\n".to_owned();
        for ((part, name), count) in &self.counts {
            // Writing to a text cannot fail.
            let _ = writeln!(table, "| {part} | {name} | {count:.1} |");
        }
        table
    }

    /// The instructions of a step.
    pub(crate) fn find(&self, step: &(String, String)) -> Option<f64> {
        self.counts.iter().find(|(known, _)| known == step).map(|(_, count)| *count)
    }
}

/// A row of the table; `None` for any other line.
fn row(line: &str) -> Option<Count> {
    let cells = line.strip_prefix("| ")?.strip_suffix(" |")?;
    let [part, name, count] = cells.split(" | ").collect::<Vec<_>>().try_into().ok()?;
    Some(((part.to_owned(), name.to_owned()), count.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let step = |name: &str| ("codec".to_owned(), name.to_owned());
        let record = Record {
            tools: String::new(),
            counts: vec![(step("encode u64"), 31.0), (step("decode a thing: of 2"), 1234.5)],
        };
        let rows: Vec<Count> = record.table().lines().filter_map(row).collect();
        assert_eq!(rows, record.counts);
    }
}
