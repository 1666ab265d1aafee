//! One self-contained HTML page: settings, metrics, score histograms, pictures. No script, nothing fetched.

use std::fmt::Write;

use serde_json::Value;

use super::{ClassResult, cells};
use crate::error::{Error, Result};
use crate::eval::heatmap::{Rgb, png};

/// What the page shows.
#[derive(Clone, Copy)]
pub struct Page<'a> {
    /// Heading of the page.
    pub title: &'a str,
    /// An object is shown as a list of its fields.
    pub settings: &'a Value,
    /// The table's rows; their mean is added.
    pub results: &'a [ClassResult],
    /// The histograms.
    pub scores: &'a [Scores<'a>],
    /// Pictures at the end of the page.
    pub pictures: &'a [Picture<'a>],
}

/// One class's image scores, drawn as a histogram of good against anomalous images.
pub struct Scores<'a> {
    /// Name of the class.
    pub name: &'a str,
    /// `(n)`.
    pub scores: &'a [f32],
    /// `(n)`, true meaning anomalous.
    pub labels: &'a [bool],
    /// Drawn as a line, where there is one.
    pub threshold: Option<f32>,
}

/// A picture with a caption, such as a contact sheet.
pub struct Picture<'a> {
    /// Text above the picture.
    pub caption: &'a str,
    /// Embedded as PNG.
    pub picture: &'a Rgb,
}

const STYLE: &str = "
:root{color-scheme:light dark;--paper:#fafaf8;--ink:#1e1e22;--faint:#6a6a72;--line:#dcdcd8;--good:#3a78c3;--bad:#d9661f}
@media(prefers-color-scheme:dark){:root{--paper:#17181b;--ink:#e6e6e3;--faint:#9a9aa2;--line:#34353a;--good:#6aa5ee;--bad:#f08a45}}
body{background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif;max-width:1280px;margin:2rem auto;padding:0 1.2rem}
h1{font-size:1.6rem;margin:0 0 1rem}h2{font-size:1.1rem;margin:2.2rem 0 .6rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .8rem;text-align:right;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left;padding-left:0}
th{color:var(--faint);font-weight:500}tbody tr:last-child td{font-weight:650;border-bottom:0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1.2rem;margin:0}dt{color:var(--faint)}dd{margin:0;overflow-wrap:anywhere}
.wide{overflow-x:auto}.plots{display:flex;flex-wrap:wrap;gap:1.6rem}figure{margin:0 0 1.6rem}.plots figure{margin:0}figcaption{margin-bottom:.4rem}
img,svg{max-width:100%}img{border:1px solid var(--line)}svg text{fill:var(--faint);font-size:11px}
.good{fill:var(--good);background:var(--good)}.bad{fill:var(--bad);background:var(--bad)}rect{fill-opacity:.55}
.key{display:inline-block;width:.75em;height:.75em;margin:0 .35em 0 1em}svg line{stroke:var(--faint)}.cut{stroke-dasharray:4 3}
";

/// The page. Errors: scores and labels of different lengths; a score that is not finite; pixels that do not fit.
pub fn html(page: &Page) -> Result<String> {
    let title = escape(page.title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n"
    );
    if let Some(fields) = page.settings.as_object() {
        out += "<dl>";
        for (name, value) in fields {
            let value = value.as_str().map_or_else(|| value.to_string(), String::from);
            out += &format!("<dt>{}</dt><dd>{}</dd>", escape(name), escape(&value));
        }
        out += "</dl>\n";
    }
    if !page.results.is_empty() {
        out += "<h2>Metrics, percent</h2><div class=\"wide\"><table>";
        for (i, row) in cells(page.results).iter().enumerate() {
            let tag = if i == 0 { "th" } else { "td" };
            let line: String = row.iter().map(|c| format!("<{tag}>{}</{tag}>", escape(c))).collect();
            out += match i {
                0 => "<thead>",
                1 => "</thead><tbody>",
                _ => "",
            };
            out += &format!("<tr>{line}</tr>");
        }
        out += "</tbody></table></div>\n";
    }
    if !page.scores.is_empty() {
        out += "<h2>Image scores, share of each kind <span class=\"key good\"></span>good<span class=\"key bad\"></span>anomalous</h2>\
                <div class=\"plots\">";
        for s in page.scores {
            out += &format!("<figure><figcaption>{}</figcaption>{}</figure>", escape(s.name), histogram(s)?);
        }
        out += "</div>\n";
    }
    if !page.pictures.is_empty() {
        out += "<h2>Pictures</h2>";
        for p in page.pictures {
            let png = png(p.picture.width, p.picture.height, &p.picture.data)?;
            let caption = escape(p.caption);
            out += &format!(
                "<figure><figcaption>{caption}</figcaption><img alt=\"{caption}\" src=\"data:image/png;base64,{}\"></figure>\n",
                base64(&png)
            );
        }
    }
    out += "</body></html>\n";
    Ok(out)
}

/// Bars of the share of each label's images in 40 equal steps of the score: shares, since good and anomalous images are
/// rarely equally many.
fn histogram(s: &Scores) -> Result<String> {
    const BINS: usize = 40;
    const BAR: f64 = 10.0;
    const HEIGHT: f64 = 120.0;
    if s.scores.len() != s.labels.len() {
        let (wanted, got) = (format!("({})", s.scores.len()), format!("({})", s.labels.len()));
        return Err(Error::Shape { op: "report", tensor: "labels", wanted, got });
    }
    if let Some(x) = s.scores.iter().chain(&s.threshold).find(|x| !x.is_finite()) {
        return Err(Error::NotFinite(format!("class {}: a score of {x} cannot be drawn", s.name)));
    }
    let range = s.scores.iter().chain(&s.threshold);
    let (lo, hi) = range.fold((f32::MAX, f32::MIN), |(lo, hi), x| (lo.min(*x), hi.max(*x)));
    let at =
        |x: f32| ((x as f64 - lo as f64) / (hi as f64 - lo as f64).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
    let mut counts = [[0usize; BINS]; 2];
    for (x, anomalous) in s.scores.iter().zip(s.labels) {
        counts[*anomalous as usize][((at(*x) * BINS as f64) as usize).min(BINS - 1)] += 1;
    }
    let totals = counts.map(|c| c.iter().sum::<usize>().max(1) as f64);
    let top = (0..2).flat_map(|k| counts[k].map(|c| c as f64 / totals[k])).fold(0.0, f64::max).max(1e-9);
    let width = BINS as f64 * BAR;
    let mut out = format!(
        "<svg width=\"{width}\" height=\"{}\" viewBox=\"0 -4 {width} {}\" role=\"img\">",
        HEIGHT + 24.0,
        HEIGHT + 24.0
    );
    for (k, (class, what)) in [("good", "good"), ("bad", "anomalous")].into_iter().enumerate() {
        for (i, count) in counts[k].iter().enumerate().filter(|(_, c)| **c > 0) {
            let h = *count as f64 / totals[k] / top * HEIGHT;
            let (x, y) = (i as f64 * BAR, HEIGHT - h);
            let _ = write!(
                out,
                "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{BAR}\" height=\"{h:.1}\">\
                 <title>{count} {what}</title></rect>"
            );
        }
    }
    if let Some(t) = s.threshold {
        let x = at(t) * width;
        let _ = write!(
            out,
            "<line class=\"cut\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"-4\" y2=\"{HEIGHT}\"><title>threshold {t}</title></line>"
        );
    }
    if !s.scores.is_empty() {
        let _ = write!(
            out,
            "<line x2=\"{width}\" y1=\"{HEIGHT}\" y2=\"{HEIGHT}\"/><text y=\"{y}\">{lo:.4}</text>\
             <text x=\"{width}\" y=\"{y}\" text-anchor=\"end\">{hi:.4}</text>",
            y = HEIGHT + 14.0
        );
    }
    Ok(out + "</svg>")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Base64 with padding (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let n = group.iter().fold(0u32, |n, b| n << 8 | *b as u32) << (8 * (3 - group.len()));
        for i in 0..4 {
            out.push(if i <= group.len() { DIGITS[(n >> (18 - 6 * i)) as usize & 63] as char } else { '=' });
        }
    }
    out
}
