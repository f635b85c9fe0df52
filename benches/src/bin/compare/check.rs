//! Whether every target is met.

use crate::journal::Journal;
use crate::report::figure;
use crate::rows::{Row, TOLERANCE, Target, Verdict};

/// A line for each target that is missed, by more than noise, or that has no figure.
pub(crate) fn misses(rows: &[Row], journal: &Journal) -> Vec<String> {
    let missed = |row: &&Row| matches!(row.verdict(journal), Verdict::Missed | Verdict::NotMeasured);
    rows.iter().filter(missed).map(|row| describe(row, journal)).collect()
}

/// What the tolerance is, for those who read the misses.
pub(crate) fn tolerance() -> String {
    format!("a target counts as missed when the median is worse by more than {:.0} %", TOLERANCE * 100.0)
}

fn describe(row: &Row, journal: &Journal) -> String {
    let ours = match journal.median(row.id) {
        Some(median) => format!("{} {}", figure(median), row.unit),
        None => "not measured".to_owned(),
    };
    format!("miss: {}: {} against {}", row.name, ours.trim_end(), target(row, journal))
}

/// The target of a row in words.
pub(crate) fn target(row: &Row, journal: &Journal) -> String {
    let relation = match row.target {
        Target::None => return "–".to_owned(),
        Target::AtLeast(_) => "≥",
        Target::AtMost(_) | Target::TimesLimit(_) => "≤",
    };
    let amount = row.target_figure(journal).map_or("–".to_owned(), figure);
    match row.target {
        Target::TimesLimit(times) => format!("{relation} {amount} ({times} × limit)"),
        _ => format!("{relation} {amount}"),
    }
}
