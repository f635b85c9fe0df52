//! Everything that was measured, for other programs.

use std::collections::BTreeMap;

use pool_benches::Outcome;
use serde::Serialize;

use super::environment::Environment;
use crate::journal::Journal;
use crate::rows::{Row, Verdict};

#[derive(Serialize)]
struct Report<'a> {
    environment: &'a Environment,
    rows: Vec<RowReport<'a>>,
    samples: BTreeMap<&'a str, Samples<'a>>,
    remarks: &'a [String],
}

#[derive(Serialize)]
struct RowReport<'a> {
    id: &'a str,
    name: &'a str,
    unit: &'a str,
    higher_is_better: bool,
    median: Option<f64>,
    limit: Option<f64>,
    limit_is: Option<&'a str>,
    best_peer: Option<String>,
    best_peer_median: Option<f64>,
    target: Option<f64>,
    verdict: &'a str,
}

#[derive(Serialize)]
struct Samples<'a> {
    median: Option<f64>,
    all: &'a [f64],
}

/// The whole report as JSON.
pub(crate) fn write(rows: &[Row], journal: &Journal, environment: &Environment) -> Outcome<String> {
    let report = Report {
        environment,
        rows: rows.iter().map(|row| describe(row, journal)).collect(),
        samples: journal
            .all()
            .map(|(name, all)| (name, Samples { median: journal.median(name), all }))
            .collect(),
        remarks: journal.remarks(),
    };
    Ok(serde_json::to_string_pretty(&report)? + "\n")
}

fn describe<'a>(row: &'a Row, journal: &Journal) -> RowReport<'a> {
    let (best_peer, best_peer_median) = row.best_peer(journal).unzip();
    RowReport {
        id: row.id,
        name: row.name,
        unit: row.unit,
        higher_is_better: row.is_better(1.0, 0.0),
        median: journal.median(row.id),
        limit: row.limit(journal),
        limit_is: row.limit_name(journal),
        best_peer,
        best_peer_median,
        target: row.target_figure(journal),
        verdict: match row.verdict(journal) {
            Verdict::NoTarget => "no target",
            Verdict::Met => "met",
            Verdict::Close => "within tolerance",
            Verdict::Missed => "missed",
            Verdict::NotMeasured => "not measured",
        },
    }
}
