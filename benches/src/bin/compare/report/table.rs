//! Aligned text.

use std::collections::BTreeSet;

use super::environment::Environment;
use super::figure;
use crate::check;
use crate::journal::Journal;
use crate::rows::{LIMITS, Row, Verdict};

/// The comparison, the limits by themselves, the peers by themselves, and what there is to remark.
pub(crate) fn write(rows: &[Row], journal: &Journal, environment: &Environment) -> String {
    let Environment { cores, cpu, kernel, rounds, load_before, load_after, .. } = environment;
    let mut text = format!(
        "{cores} cores, {cpu}, Linux {kernel}; medians of up to {rounds} rounds\n\
         load {load_before} before, {load_after} after; other programs used {} % of the cores, {} % was stolen\n\n",
        figure(environment.others_percent),
        figure(environment.stolen_percent),
    );
    text += &comparison(rows, journal);
    text += "\n/ limit, / peer: our figure divided by theirs (above 1 is better where more is better, below 1 where less is)\n";
    text += "least, most: of all repetitions; ~: missed by no more than the tolerance; ";
    text += &check::tolerance();
    text += "\n\n";
    text += &limits(journal);
    let peers = peers(rows, journal);
    if !peers.is_empty() {
        text += "\n";
        text += &peers;
    }
    if !journal.remarks().is_empty() {
        text += "\n";
    }
    for remark in journal.remarks() {
        text += &format!("- {remark}\n");
    }
    text
}

fn comparison(rows: &[Row], journal: &Journal) -> String {
    let mut lines = vec![
        [
            "",
            "unit",
            "ours",
            "least",
            "most",
            "limit",
            "/ limit",
            "best peer",
            "",
            "/ peer",
            "target",
            "met?",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for row in rows {
        let ours = journal.median(row.id);
        let limit = row.limit(journal);
        let (peer, peer_figure) = row.best_peer(journal).unzip();
        let extremes = journal.extremes(row.id);
        lines.push(vec![
            row.name.to_owned(),
            row.unit.to_owned(),
            shown(ours),
            shown(extremes.map(|(least, _)| least)),
            shown(extremes.map(|(_, most)| most)),
            shown(limit),
            ratio(ours, limit),
            shown(peer_figure),
            peer.unwrap_or_default(),
            ratio(ours, peer_figure),
            check::target(row, journal),
            met(row.verdict(journal)).to_owned(),
        ]);
    }
    align(&lines, &[0, 1, 8, 10, 11])
}

fn met(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::NoTarget => "–",
        Verdict::Met => "yes",
        Verdict::Close => "~",
        Verdict::Missed => "NO",
        Verdict::NotMeasured => "not measured",
    }
}

fn limits(journal: &Journal) -> String {
    let mut lines = vec![["limits", "unit", "median", "least", "most"].map(str::to_owned).to_vec()];
    for (id, name, unit) in LIMITS {
        let Some((least, most)) = journal.extremes(id) else { continue };
        let figures = [journal.median(id), Some(least), Some(most)].map(shown);
        lines.push([(*name).to_owned(), (*unit).to_owned()].into_iter().chain(figures).collect());
    }
    if lines.len() > 1 { align(&lines, &[0, 1]) } else { String::new() }
}

fn peers(rows: &[Row], journal: &Journal) -> String {
    let names = journal.all().map(|(name, _)| name).chain(journal.hung());
    let names = names.filter_map(|name| Some(name.strip_prefix("peer.")?.split_once('.')?.0));
    let names: BTreeSet<&str> = names.collect();
    if names.is_empty() {
        return String::new();
    }
    let head = ["peers, medians", "unit", "ours"].into_iter().chain(names.iter().copied());
    let mut lines = vec![head.map(str::to_owned).collect::<Vec<_>>()];
    for row in rows.iter().filter(|row| row.peers) {
        let figures = names.iter().map(|peer| {
            let name = format!("peer.{peer}.{}", row.id);
            let median = journal.median(&name);
            if median.is_none() && journal.hangs(&name) { "hangs".to_owned() } else { shown(median) }
        });
        let start = [row.name.to_owned(), row.unit.to_owned(), shown(journal.median(row.id))];
        lines.push(start.into_iter().chain(figures).collect());
    }
    align(&lines, &[0, 1])
}

fn shown(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), figure)
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> String {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs > 0.0 => figure(ours / theirs),
        _ => "–".to_owned(),
    }
}

/// Columns as wide as their widest cell; these to the left, the others to the right.
fn align(lines: &[Vec<String>], left: &[usize]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if left.contains(&column) { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters_not_bytes() {
        let lines = [["µs", "1"], ["ms", "20"]].map(|line| line.map(str::to_owned).to_vec());
        assert_eq!(align(&lines, &[0]), "µs   1\nms  20\n");
    }
}
