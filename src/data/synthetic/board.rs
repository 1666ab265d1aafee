//! A populated circuit board: traces under green mask, tinned pads, chips, resistors, capacitors, white legend.

use super::canvas::*;
use super::{Flaw, Pose, Rng};
use std::f32::consts::PI;

type Point = (f32, f32);

const MASK: Rgb = [0.07, 0.29, 0.17];
const TRACE: Rgb = [0.15, 0.43, 0.24];
const TIN: Rgb = [0.72, 0.73, 0.72];
const LEGEND: Rgb = [0.86, 0.88, 0.84];

/// Middle of the big chip, its half sides, distance from pin to pin.
const CHIP: (f32, f32, f32, f32) = (4.0, -16.0, 31.0, 19.0);
const PIN: f32 = 7.2;
/// The row of connector pads: its height, their distance and radius.
const ROW: (f32, f32, f32) = (90.0, 16.0, 5.6);

/// A two-ended part: its middle, upright or lying, and what it is.
const PARTS: [(f32, f32, bool, Kind); 11] = [
    (-60.0, -80.0, true, Kind::Resistor),
    (-36.0, -80.0, true, Kind::Resistor),
    (-12.0, -80.0, true, Kind::Resistor),
    (12.0, -80.0, true, Kind::Resistor),
    (36.0, -80.0, true, Kind::Resistor),
    (60.0, -80.0, true, Kind::Resistor),
    (-86.0, 24.0, false, Kind::Capacitor),
    (-86.0, 46.0, false, Kind::Capacitor),
    (86.0, 30.0, false, Kind::Capacitor),
    (86.0, 52.0, false, Kind::Capacitor),
    (88.0, -44.0, true, Kind::Diode),
];
const VIAS: [Point; 12] = [
    (-62.0, 4.0),
    (-58.0, 34.0),
    (-66.0, 66.0),
    (62.0, 66.0),
    (60.0, 24.0),
    (-50.0, -46.0),
    (70.0, -46.0),
    (-104.0, 62.0),
    (104.0, 8.0),
    (-100.0, -64.0),
    (100.0, -84.0),
    (0.0, 44.0),
];
const LABELS: [(f32, f32, f32, &str); 13] = [
    (-56.0, -62.0, 1.3, "R1"),
    (-32.0, -62.0, 1.3, "R2"),
    (-8.0, -62.0, 1.3, "R3"),
    (16.0, -62.0, 1.3, "R4"),
    (40.0, -62.0, 1.3, "R5"),
    (64.0, -62.0, 1.3, "R6"),
    (-86.0, 34.5, 1.3, "C1"),
    (-86.0, 56.5, 1.3, "C2"),
    (88.0, 40.5, 1.3, "C3"),
    (88.0, 62.5, 1.3, "C4"),
    (48.0, 8.0, 1.6, "U1"),
    (-74.0, 92.0, 1.9, "P1"),
    (84.0, 82.0, 1.9, "R2"),
];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Resistor,
    Capacitor,
    Diode,
}

struct Board {
    pose: Pose,
    seed: u32,
    traces: Vec<(Point, Point, f32)>,
    /// Each part's own small error of placement.
    placed: Vec<Pose>,
    missing: Option<usize>,
    bridge: Option<Blob>,
    scratch: Option<Stroke>,
    strength: f32,
}

pub fn draw(rng: &mut Rng, pose: Pose, flaw: Option<Flaw>) -> Scene {
    let placed = PARTS
        .iter()
        .map(|p| {
            let upright = if p.2 { 0.5 * PI } else { 0.0 };
            Pose::new((p.0 + rng.around(0.35), p.1 + rng.around(0.35)), upright + rng.around(0.04), 1.0)
        })
        .collect();
    let seed = rng.seed();
    let mut b = Board {
        pose,
        seed,
        traces: traces(),
        placed,
        missing: None,
        bridge: None,
        scratch: None,
        strength: 1.0,
    };
    if let Some(mut f) = flaw {
        let r = &mut f.rng;
        b.strength = f.strength;
        match f.kind {
            "missing_part" => b.missing = Some(r.pick(PARTS.len())),
            "solder_bridge" => {
                // Between two neighbours of the connector, or two pins of the chip.
                let i = r.pick(7) as f32 - 3.0;
                let side = if r.pick(2) == 0 { CHIP.3 + 5.0 } else { -CHIP.3 - 5.0 };
                let at = if r.pick(2) == 0 { (i * ROW.1, ROW.0) } else { (CHIP.0 + i * PIN, CHIP.1 + side) };
                b.bridge = Some(Blob::new(r, at, 0.75 * f.size));
            }
            _ => {
                let near =
                    [(-4.0, 52.0), (-44.0, 56.0), (44.0, 56.0), (0.0, -54.0), (-58.0, 18.0)][r.pick(5)];
                let angle = r.range(-0.7, 0.7);
                let at = (near.0 + r.around(6.0), near.1 + r.around(4.0));
                b.scratch = Some(Stroke::new(r, at, angle, f.size, 0.12, 2.4));
            }
        }
    }
    Box::new(move |x, y| b.shade(x, y))
}

/// Every trace, as segments with a width.
fn traces() -> Vec<(Point, Point, f32)> {
    let mut v = Vec::new();
    let mut run = |points: &[Point], width: f32| v.extend(points.windows(2).map(|p| (p[0], p[1], width)));
    // From `(x, y)` straight, then at 45 degrees to the column `to`, then straight to `end`.
    let mut fan = |x: f32, y: f32, lead: f32, to: f32, end: f32| {
        let (s, d) = ((end - y).signum(), (to - x).abs());
        run(&[(x, y), (x, y + s * lead), (to, y + s * (lead + d)), (to, end)], 2.4);
    };
    for i in 0..8 {
        let k = i as f32 - 3.5;
        fan(CHIP.0 + k * PIN, CHIP.1 + CHIP.3 + 5.0, 6.0 + 6.0 * (3.5 - k.abs()), k * ROW.1, ROW.0);
    }
    for i in 0..6 {
        let k = i as f32 - 2.5;
        fan(CHIP.0 + k * PIN, CHIP.1 - CHIP.3 - 5.0, 3.0 + 5.0 * (2.5 - k.abs()).min(1.0), k * 24.0, -70.0);
    }
    run(&[(-104.0, -93.0), (76.0, -93.0), (88.0, -81.0), (88.0, -56.0)], 5.0);
    run(&[(-100.0, -64.0), (-88.0, -52.0), (-88.0, -38.0)], 3.0);
    run(&[(-76.0, 24.0), (-62.0, 10.0), (-62.0, 4.0)], 2.4);
    run(&[(-76.0, 46.0), (-70.0, 46.0), (-58.0, 34.0)], 2.4);
    run(&[(-96.0, 24.0), (-104.0, 32.0), (-104.0, 62.0)], 3.0);
    run(&[(76.0, 30.0), (70.0, 30.0), (70.0, 5.0)], 2.4);
    run(&[(96.0, 30.0), (104.0, 22.0), (104.0, 8.0)], 2.4);
    run(&[(76.0, 52.0), (62.0, 66.0)], 2.4);
    run(&[(88.0, -32.0), (88.0, -16.0)], 3.0);
    v
}

/// Rows of a 3 × 5 letter, three bits each, the top row first.
fn glyph(c: u8) -> u16 {
    match c {
        b'1' => 0b010_110_010_010_111,
        b'2' => 0b111_001_111_100_111,
        b'3' => 0b111_001_111_001_111,
        b'4' => 0b101_101_111_001_001,
        b'5' => 0b111_100_111_001_111,
        b'6' => 0b111_100_111_101_111,
        b'8' => 0b111_101_111_101_111,
        b'C' => 0b111_100_100_100_111,
        b'P' => 0b111_101_111_100_100,
        b'R' => 0b110_101_110_101_101,
        _ => 0b101_101_101_101_111,
    }
}

/// Whether a point lies on the letters of `text`, centred on 0, `dot` units a dot.
fn lettering(x: f32, y: f32, dot: f32, text: &str) -> bool {
    let (col, row) = (x / dot + 2.0 * text.len() as f32 - 0.5, y / dot + 2.5);
    if !(0.0..5.0).contains(&row) || !(0.0..4.0 * text.len() as f32).contains(&col) {
        return false;
    }
    let (col, row) = (col as usize, row as usize);
    col % 4 < 3 && glyph(text.as_bytes()[col / 4]) >> (14 - 3 * row - col % 4) & 1 == 1
}

/// Tin with a highlight: `d` is the signed distance to its edge.
fn tin(c: Rgb, d: f32, x: f32, y: f32, seed: u32) -> Rgb {
    let k = 0.92 + 0.12 * step(0.0, -2.2, d) + 0.10 * noise(seed ^ 9, 0.5 * x, 0.5 * y);
    blend(c, lit(TIN, k), step(0.4, -0.4, d))
}

impl Board {
    fn shade(&self, x: f32, y: f32) -> Rgb {
        let (u, v) = self.pose.local(x, y);
        let s = self.seed;
        let mut c = lit(MASK, 1.0 + 0.08 * noise(s, 0.02 * u, 0.02 * v) + 0.05 * noise(77, 0.6 * u, 0.6 * v));
        let copper = self.traces.iter().fold(9.0, |d: f32, (a, b, w)| {
            let far = u < a.0.min(b.0) - 9.0
                || u > a.0.max(b.0) + 9.0
                || v < a.1.min(b.1) - 9.0
                || v > a.1.max(b.1) + 9.0;
            if far { d } else { d.min(segment(u, v, *a, *b).0 - 0.5 * w) }
        });
        c = blend(c, TRACE, step(0.5, -0.5, copper));
        c = lit(c, 1.0 + 0.25 * step(0.8, 0.0, (copper + 0.2).abs()));
        if LABELS.iter().any(|l| lettering(u - l.0, v - l.1, l.2, l.3)) {
            c = LEGEND;
        }
        c = self.outlines(c, u, v);
        c = self.holes(c, u, v);
        if let Some(l) = &self.scratch {
            let e = l.edge(u, v);
            let bare = blend([0.55, 0.62, 0.48], [0.85, 0.60, 0.38], step(0.5, -0.5, copper));
            c = blend(c, bare, self.strength * step(0.5, -0.4, e));
        }
        c = self.small_parts(c, u, v);
        c = self.chip(c, u, v);
        c = self.cans(c, u, v);
        if let Some(b) = &self.bridge {
            let d = (b.depth(u, v) - 0.9) * 7.0;
            let shine = 0.3 * step(0.75, 0.2, b.depth(u + 1.6, v + 2.0));
            c = tin(c, d, u, v, s);
            c = lit(c, 1.0 + if d < 0.0 { shine - 0.12 } else { -0.25 * step(2.5, 0.0, d) });
        }
        c
    }

    /// The legend's boxes.
    fn outlines(&self, c: Rgb, u: f32, v: f32) -> Rgb {
        let line = |d: f32| step(1.1, 0.5, d.abs());
        let chip = line(rounded_box(u - CHIP.0, v - CHIP.1, CHIP.2 + 4.0, CHIP.3 + 14.0, 1.0));
        let row = line(rounded_box(u, v - ROW.0, 4.0 * ROW.1, 10.0, 1.0));
        let can = line(hypot(u + 88.0, v + 16.0) - 23.0);
        blend(c, LEGEND, 0.9 * chip.max(row).max(can))
    }

    /// Vias, connector pads, mounting holes.
    fn holes(&self, mut c: Rgb, u: f32, v: f32) -> Rgb {
        let mut ring = |at: Point, outer: f32, inner: f32, gold: bool| {
            let r = hypot(u - at.0, v - at.1);
            if r < outer + 1.0 {
                c = tin(c, r - outer, u, v, self.seed);
                if gold {
                    c = blend(c, [0.80, 0.64, 0.32], 0.8 * step(outer + 0.4, outer - 0.4, r));
                }
                c = blend(c, [0.04, 0.05, 0.05], step(inner + 0.4, inner - 0.4, r));
            }
        };
        VIAS.iter().for_each(|&at| ring(at, 3.4, 1.4, false));
        (0..8).for_each(|i| ring(((i as f32 - 3.5) * ROW.1, ROW.0), ROW.2, 2.4, true));
        [(-102.0, 100.0), (102.0, 104.0)].iter().for_each(|&at| ring(at, 11.0, 7.5, false));
        c
    }

    fn small_parts(&self, mut c: Rgb, u: f32, v: f32) -> Rgb {
        for (i, (part, pose)) in PARTS.iter().zip(&self.placed).enumerate() {
            if hypot(u - part.0, v - part.1) > 20.0 {
                continue;
            }
            // Pads belong to the board, the part to its own pose.
            let (px, py) = if part.2 { (v - part.1, part.0 - u) } else { (u - part.0, v - part.1) };
            c = tin(c, rounded_box(px.abs() - 9.5, py, 4.6, 6.0, 1.0), u, v, self.seed);
            if self.missing == Some(i) {
                continue;
            }
            let (a, b) = pose.local(u, v);
            let (sa, sb) = pose.local(u - 1.8, v - 2.4);
            c = lit(c, 1.0 - 0.45 * step(1.8, -1.0, rounded_box(sa, sb, 10.0, 5.0, 0.8)));
            let d = rounded_box(a, b, 10.0, 5.0, 0.8);
            let bevel = 1.0 + 0.16 * step(-1.8, -0.4, d) * if b > 0.0 { -1.0 } else { 1.0 };
            let metal = step(6.8, 7.4, a.abs());
            let (body, cap) = match part.3 {
                Kind::Resistor => ([0.10, 0.10, 0.12], TIN),
                Kind::Capacitor => ([0.62, 0.47, 0.33], TIN),
                Kind::Diode => {
                    (if a > 2.5 && a < 5.0 { [0.78, 0.78, 0.76] } else { [0.42, 0.13, 0.09] }, TIN)
                }
            };
            let mut k = blend(body, cap, metal);
            if part.3 == Kind::Resistor && lettering(a, b, 1.15, "222") {
                k = [0.72, 0.72, 0.70];
            }
            c = blend(c, lit(k, bevel), step(0.4, -0.4, d));
        }
        c
    }

    fn chip(&self, mut c: Rgb, u: f32, v: f32) -> Rgb {
        let (a, b) = (u - CHIP.0, v - CHIP.1);
        if a.abs() > CHIP.2 + 8.0 || b.abs() > CHIP.3 + 16.0 {
            return c;
        }
        let pin = (a / PIN + 4.0).floor().clamp(0.0, 7.0) - 3.5;
        let (pa, pb) = (a - pin * PIN, b.abs() - CHIP.3 - 4.5);
        c = tin(c, rounded_box(pa, pb - 2.5, 2.6, 5.0, 0.8), u, v, self.seed);
        c = blend(c, [0.80, 0.81, 0.82], step(0.3, -0.3, rounded_box(pa, pb, 1.5, 4.5, 0.3)));
        c = lit(c, 1.0 - 0.5 * step(3.0, -2.0, rounded_box(a - 3.0, b - 4.0, CHIP.2, CHIP.3, 1.0)));
        let d = rounded_box(a, b, CHIP.2, CHIP.3, 1.0);
        let mut k = lit([0.125, 0.125, 0.14], 1.0 + 0.10 * noise(self.seed ^ 3, 1.5 * u, 1.5 * v));
        let edge = if a.abs() - CHIP.2 > b.abs() - CHIP.3 {
            facing(a.signum(), 0.0)
        } else {
            facing(0.0, b.signum())
        };
        k = lit(k, 1.0 + 0.6 * edge * step(-2.5, -1.5, d));
        k = lit(k, 1.0 - 0.5 * step(2.8, 2.2, hypot(a + CHIP.2 - 6.0, b - CHIP.3 + 6.0)));
        if lettering(a, b + 5.0, 1.6, "6R2P15") || lettering(a, b - 6.0, 1.2, "CU8251") {
            k = [0.45, 0.45, 0.46];
        }
        blend(c, k, step(0.4, -0.4, d))
    }

    /// The electrolytic capacitor and the crystal.
    fn cans(&self, mut c: Rgb, u: f32, v: f32) -> Rgb {
        let (a, b) = (u + 88.0, v + 16.0);
        c = lit(c, 1.0 - 0.5 * step(3.0, -3.0, hypot(a - 5.0, b - 7.0) - 20.0));
        let r = hypot(a, b);
        if r < 21.0 {
            let n = r.max(1e-3);
            let top = lit([0.74, 0.75, 0.77], 0.95 + 0.12 * facing(a / n, b / n) * r / 20.0);
            let k = if a < -9.0 && r < 16.5 { [0.11, 0.12, 0.16] } else { top };
            let k = lit(k, 1.0 + 0.35 * facing(a / n, b / n) * step(1.8, 0.0, (r - 17.5).abs()));
            c = blend(c, k, step(20.4, 19.6, r));
        }
        let (a, b) = (u - 86.0, v + 5.0);
        c = lit(c, 1.0 - 0.5 * step(2.5, -2.5, rounded_box(a - 3.0, b - 4.0, 20.0, 8.5, 8.0)));
        let d = rounded_box(a, b, 20.0, 8.5, 8.0);
        let k = 1.02
            + 0.20 * facing(0.0, b / 8.5) * step(-5.0, -1.0, d)
            + 0.05 * noise(self.seed ^ 5, 0.2 * u, 1.5 * v);
        let k = lit([0.70, 0.71, 0.72], if lettering(a, b, 1.4, "8R2") { 0.7 * k } else { k });
        blend(c, k, step(0.4, -0.4, d))
    }
}
