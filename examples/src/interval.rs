//! Spans of time on the command line.

use std::time::Duration;

/// Reads a span of time such as `20ms`, `1.5s`.
///
/// ```
/// use std::time::Duration;
///
/// assert_eq!(pool_examples::parse_interval("20ms"), Ok(Duration::from_millis(20)));
/// assert_eq!(pool_examples::parse_interval("1.5s"), Ok(Duration::from_millis(1500)));
/// assert!(pool_examples::parse_interval("20").is_err());
/// ```
///
/// # Errors
/// A message when it is no number with `ms` or `s` behind it, or not above 0.
pub fn parse_interval(text: &str) -> Result<Duration, String> {
    let parts = match text.strip_suffix("ms") {
        Some(number) => Some((number, 1e-3)),
        None => text.strip_suffix('s').map(|number| (number, 1.0)),
    };
    parts
        .and_then(|(number, unit)| Some(number.trim().parse::<f64>().ok()? * unit))
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|interval| !interval.is_zero())
        .ok_or_else(|| "write a number above 0 with its unit: 20ms, 1.5s".to_owned())
}
