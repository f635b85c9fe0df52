//! A picture of horizontal bars, as SVG text.

use std::fmt::Write;

/// Whose bar it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Ours,
    Limit,
    Peer,
}

/// One bar.
#[derive(Debug, Clone)]
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) value: f64,
    /// The value as it is written beside the bar.
    pub(super) text: String,
    pub(super) who: Who,
}

/// Bars below one heading.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) title: String,
    /// Below the title; may be empty.
    pub(super) note: String,
    pub(super) bars: Vec<Bar>,
}

const WIDTH: f64 = 760.0;
const LABELS: f64 = 170.0;
const VALUES: f64 = 110.0;
const LINE: f64 = 20.0;
const BAR: f64 = 13.0;
const HEAD: f64 = 58.0;
const GAP: f64 = 14.0;
/// The smallest value has a bar this long.
const SHORTEST: f64 = 4.0;

/// Colours for light and dark pages; the picture has its own background, since it cannot know that of the page.
const STYLE: &str = "
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.group { font-weight: 600 }
.note, .value { fill: #59636e }
.page { fill: #ffffff }
.ours { fill: #0969da } .limit { fill: #9a6700 } .peer { fill: #afb8c1 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .note, .value { fill: #9198a1 } .page { fill: #0d1117 }
  .ours { fill: #4493f8 } .limit { fill: #d29922 } .peer { fill: #4f5862 }
}
";

/// Draws the groups below each other. Bars are logarithmic: each group begins at a round figure below its least value.
pub(super) fn draw(title: &str, note: &str, groups: &[Group]) -> String {
    let bars: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = HEAD + groups.len() as f64 * (2.0 * LINE + GAP) + bars as f64 * LINE;
    let mut svg = String::new();
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n<rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n",
        title = escape(title),
    );
    text(&mut svg, "title", 16.0, 26.0, "start", title);
    text(&mut svg, "note", 16.0, 46.0, "start", note);
    let mut top = HEAD;
    for group in groups {
        top += GAP;
        text(&mut svg, "group", 16.0, top + 10.0, "start", &group.title);
        text(&mut svg, "note", 16.0, top + LINE + 8.0, "start", &group.note);
        top += 2.0 * LINE;
        let scale = Scale::of(&group.bars);
        for bar in &group.bars {
            let class = match bar.who {
                Who::Ours => "ours",
                Who::Limit => "limit",
                Who::Peer => "peer",
            };
            let length = scale.length(bar.value);
            text(&mut svg, "label", LABELS - 8.0, top + 11.0, "end", &bar.label);
            let _ = writeln!(
                svg,
                "<rect class=\"{class}\" x=\"{LABELS}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\"/>"
            );
            text(&mut svg, "value", LABELS + length + 6.0, top + 11.0, "start", &bar.text);
            top += LINE;
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// From values to lengths.
struct Scale {
    least: f64,
    most: f64,
}

impl Scale {
    fn of(bars: &[Bar]) -> Self {
        let values = || bars.iter().map(|bar| bar.value).filter(|value| *value > 0.0);
        let least = values().fold(f64::INFINITY, f64::min);
        let most = values().fold(0.0, f64::max);
        Self { least: 10_f64.powf(least.log10().floor()), most }
    }

    fn length(&self, value: f64) -> f64 {
        let room = WIDTH - LABELS - VALUES - SHORTEST;
        if value <= self.least || self.most <= self.least {
            return SHORTEST;
        }
        SHORTEST + room * (value / self.least).log10() / (self.most / self.least).log10()
    }
}

fn text(svg: &mut String, class: &str, x: f64, y: f64, anchor: &str, what: &str) {
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escape(what)
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fit_and_keep_their_order() {
        let bar = |value: f64| Bar { label: "a<b".to_owned(), value, text: String::new(), who: Who::Peer };
        let bars = [0.0, 0.3, 5.0, 4000.0].map(bar).to_vec();
        let scale = Scale::of(&bars);
        let lengths: Vec<f64> = bars.iter().map(|bar| scale.length(bar.value)).collect();
        assert!(lengths.is_sorted(), "{lengths:?}");
        assert!(
            lengths.iter().all(|length| (SHORTEST..=WIDTH - LABELS - VALUES + 0.1).contains(length)),
            "{lengths:?}"
        );
        let svg = draw("t", "n", &[Group { title: "g".to_owned(), note: String::new(), bars }]);
        assert!(svg.contains("a&lt;b") && svg.ends_with("</svg>\n"));
    }
}
