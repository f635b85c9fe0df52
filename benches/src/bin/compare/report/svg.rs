//! The figures for the documentation.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use pool_benches::Outcome;

use super::figure;
use super::paint::{Bar, Group, Who, draw};
use crate::journal::Journal;
use crate::rows::{Better, LIMITS, ROWS, Row};

/// A figure: its file, its title, and its rows.
const FIGURES: [(&str, &str, &[&str]); 4] = [
    ("throughput.svg", "Many tiny tasks", &["map", "singles"]),
    ("round-trip.svg", "One task at a time", &["trip_hot_p50", "trip_asleep_p50", "trip_asleep_p99"]),
    ("payload.svg", "Large arguments and results", &["echo_64k", "echo_1m", "echo_16m", "borrowed"]),
    ("start.svg", "Starting, and starting again", &["start", "crash", "crash_spare"]),
];

/// Draws every figure that has something to show into this folder.
pub(crate) fn write(folder: &Path, journal: &Journal) -> Outcome<()> {
    fs::create_dir_all(folder)?;
    for (file, title, ids) in FIGURES {
        let rows = ids.iter().filter_map(|id| ROWS.iter().find(|row| row.id == *id));
        let groups: Vec<Group> = rows.filter_map(|row| group(row, journal)).collect();
        if !groups.is_empty() {
            fs::write(folder.join(file), draw(title, "medians of one run, logarithmic scale", &groups))?;
        }
    }
    Ok(())
}

/// Ours first, then the limit, then the peers from the best to the worst.
fn group(row: &Row, journal: &Journal) -> Option<Group> {
    let bar = |label: &str, value: f64, who| {
        let text = format!("{} {}", figure(value), row.unit);
        Bar { label: label.to_owned(), value, text: text.trim_end().to_owned(), who }
    };
    let mut bars = vec![bar("this pool", journal.median(row.id)?, Who::Ours)];
    let sense = if row.better == Better::Higher { "more is better" } else { "less is better" };
    let (title, mut note) = (format!("{}, {}", row.name, row.unit), sense.to_owned());
    if let Some(id) = row.limit_name(journal) {
        bars.extend(journal.median(id).map(|value| bar("limit", value, Who::Limit)));
        if let Some((_, name, _)) = LIMITS.iter().find(|(known, ..)| *known == id) {
            note += &format!("; limit: {name}");
        }
    }
    let names = journal
        .all()
        .filter_map(|(name, _)| name.strip_prefix("peer.")?.strip_suffix(row.id)?.strip_suffix('.'));
    let names: BTreeSet<&str> = names.collect();
    let figures =
        names.iter().filter_map(|peer| Some((*peer, journal.median(&format!("peer.{peer}.{}", row.id))?)));
    let mut figures: Vec<(&str, f64)> = figures.collect();
    figures.sort_by(|one, other| {
        if row.better == Better::Higher { other.1.total_cmp(&one.1) } else { one.1.total_cmp(&other.1) }
    });
    bars.extend(figures.into_iter().map(|(peer, value)| bar(peer, value, Who::Peer)));
    Some(Group { title, note, bars })
}
