//! What has been measured so far, by name.

use std::collections::{BTreeMap, BTreeSet};

use pool_benches::samples;

/// Samples by name, one for each repetition, and remarks.
///
/// Names: `map` is this pool's figure for the row `map`, `bare.memcpy` a limit, `peer.loky.map` what a peer has there.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    samples: BTreeMap<String, Vec<f64>>,
    remarks: Vec<String>,
    hung: BTreeSet<String>,
}

impl Journal {
    pub(crate) fn note(&mut self, name: &str, value: f64) {
        self.samples.entry(name.to_owned()).or_default().push(value);
    }

    /// The 50th and 99th percentile of one repetition, as `NAME_p50` and `NAME_p99`.
    pub(crate) fn note_spread(&mut self, name: &str, times: &[f64]) {
        for (suffix, percent) in [("p50", 50.0), ("p99", 99.0)] {
            if let Some(value) = samples::percentile(times, percent) {
                self.note(&format!("{name}_{suffix}"), value);
            }
        }
    }

    /// Something that the reader of the report must know; the same only once.
    pub(crate) fn remark(&mut self, text: String) {
        if !self.remarks.contains(&text) {
            self.remarks.push(text);
        }
    }

    pub(crate) fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Nothing whose name begins with this came to an end.
    pub(crate) fn note_hang(&mut self, name: String) {
        self.hung.insert(name);
    }

    pub(crate) fn hung(&self) -> impl Iterator<Item = &str> {
        self.hung.iter().map(String::as_str)
    }

    pub(crate) fn hangs(&self, name: &str) -> bool {
        self.hung.iter().any(|beginning| name.starts_with(beginning))
    }

    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        samples::median(self.samples.get(name)?)
    }

    pub(crate) fn extremes(&self, name: &str) -> Option<(f64, f64)> {
        samples::extremes(self.samples.get(name)?)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &[f64])> {
        self.samples.iter().map(|(name, values)| (name.as_str(), values.as_slice()))
    }
}
