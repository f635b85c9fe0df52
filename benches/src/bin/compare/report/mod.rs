//! What is told of the measurements: a table to read, JSON with everything, figures.

pub(crate) mod environment;
pub(crate) mod json;
mod paint;
pub(crate) mod svg;
pub(crate) mod table;

/// Three digits that count, and no more zeroes than needed.
pub(crate) fn figure(value: f64) -> String {
    let digits: usize = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.01 => 3,
        _ => 5,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::figure;

    #[test]
    fn figures_have_three_digits() {
        for (value, text) in [
            (1234.5, "1234"),
            (99.96, "100"),
            (12.34, "12.3"),
            (2.0, "2"),
            (0.4567, "0.457"),
            (0.00012, "0.00012"),
            (0.0, "0"),
        ] {
            assert_eq!(figure(value), text);
        }
    }
}
