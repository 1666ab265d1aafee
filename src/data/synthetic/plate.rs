//! A brushed steel plate with countersunk holes.

use super::canvas::*;
use super::{Flaw, Pose, Rng};

/// Grid of the holes; radius of the hole and of its countersink.
const GRID: f32 = 76.0;
const HOLE: f32 = 13.0;
const SINK: f32 = 19.0;

struct Plate {
    pose: Pose,
    seed: u32,
    blocked: Option<(f32, f32)>,
    strike: Option<(f32, f32, f32)>,
    scratch: Option<Stroke>,
    stain: Option<Blob>,
    strength: f32,
}

pub fn draw(rng: &mut Rng, pose: Pose, flaw: Option<Flaw>) -> Scene {
    let mut p = Plate {
        pose,
        seed: rng.seed(),
        blocked: None,
        strike: None,
        scratch: None,
        stain: None,
        strength: 1.0,
    };
    if let Some(mut f) = flaw {
        let r = &mut f.rng;
        p.strength = f.strength;
        // Between the holes: the middle of a cell of the grid, a little off.
        let cell = |r: &mut Rng| ((r.pick(2) as f32 - 0.5) * GRID, (r.pick(2) as f32 - 0.5) * GRID);
        let (cx, cy) = cell(r);
        let at = (cx + r.around(5.0), cy + r.around(5.0));
        match f.kind {
            "blocked_hole" => p.blocked = Some((r.pick(3) as f32 - 1.0, r.pick(3) as f32 - 1.0)),
            "arc_strike" => p.strike = Some((at.0, at.1, f.size)),
            "scratch" => {
                let angle = r.range(0.4, 2.7);
                p.scratch = Some(Stroke::new(r, at, angle, f.size, 0.06, 6.0));
            }
            _ => p.stain = Some(Blob::new(r, at, f.size)),
        }
    }
    Box::new(move |x, y| p.shade(x, y))
}

impl Plate {
    fn shade(&self, x: f32, y: f32) -> Rgb {
        let (u, v) = self.pose.local(x, y);
        let (i, j) = ((u / GRID + 0.5).floor(), (v / GRID + 0.5).floor());
        let (hx, hy) = (u - i * GRID, v - j * GRID);
        let r = hypot(hx, hy);
        let s = self.seed;
        let brush = 0.5 * noise(s, 0.012 * u, 0.9 * v)
            + 0.35 * noise(s ^ 1, 0.03 * u, 2.1 * v)
            + 0.15 * noise(s ^ 2, 0.2 * u, 2.3 * v);
        // A broad band of light along the brushing, as from a strip lamp.
        let band = libm::expf(-(v + 40.0) * (v + 40.0) / 9000.0);
        let mut k = 0.55 + 0.10 * band + 0.075 * brush;
        let mut open = 0.0;
        if r < SINK + 1.2 {
            let (nx, ny) = (hx / r.max(1e-3), hy / r.max(1e-3));
            let rings = noise(s ^ 3, 2.5 * r, 3.0);
            let cone = 0.52 + 0.30 * facing(-nx, -ny) + 0.04 * rings;
            k = mix1(k, cone, step(SINK + 0.5, SINK - 0.5, r));
            // Through the hole: the bench below, its far wall catching the lamp.
            let bench = 0.07 + 0.16 * step(HOLE - 5.0, HOLE, r) * facing(-nx, -ny).max(0.0);
            k = mix1(k, bench, step(HOLE + 0.4, HOLE - 0.4, r));
            k += 0.18 * step(0.9, 0.0, (r - SINK).abs()) * facing(nx, ny);
            open = step(HOLE + 0.4, HOLE - 0.4, r);
        }
        let mut c = blend(lit([1.0, 0.985, 0.96], k), [k * 0.9, k * 0.95, k], open);
        if let Some((dx, dy, size)) = self.strike {
            // A welding arc struck: a bowl with an upset rim, steepest half way out, black scale at its
            // bottom, straw-coloured heat tint around it.
            let (p, q) = ((u - dx) / size, (v - dy) / (0.85 * size));
            let d = hypot(p, q).max(1e-3) + 0.10 * noise(s ^ 6, 0.15 * u, 0.15 * v);
            let slope = 4.0 * d * (1.0 - d).max(0.0) * facing(-p / d, -q / d);
            let rim = step(0.16, 0.0, (d - 1.0).abs()) * (0.5 + 0.5 * facing(p / d, q / d));
            let tint = [c[0] * 0.80, c[1] * 0.62, c[2] * 0.42];
            c = blend(c, tint, (1.0 - open) * self.strength * step(1.5, 1.05, d));
            c = lit(c, 1.0 + self.strength * (0.7 * slope + 0.5 * rim - 0.15 * step(1.0, 0.0, d)));
            let scale = lit([0.20, 0.17, 0.19], 1.0 + 0.9 * fbm(s ^ 7, 0.25 * u, 0.25 * v));
            c = blend(c, scale, self.strength * step(0.75, 0.45, d + 0.25 * noise(s ^ 8, 0.2 * u, 0.2 * v)));
        }
        if self.blocked == Some((i, j)) {
            // A plug of brass swarf fills the hole and part of its countersink.
            let tone = 0.75 + 0.9 * fbm(s ^ 4, 0.3 * u, 0.3 * v);
            let cover = step(SINK - 2.0, SINK - 4.0, r + 2.5 * noise(s ^ 5, 0.25 * u, 0.25 * v));
            c = blend(c, lit([0.80, 0.58, 0.25], tone), self.strength * cover);
        }
        if let Some(b) = &self.stain {
            // Dried coolant: a thin film with a dark rim.
            let d = b.depth(u, v);
            let cover =
                (1.0 - open) * self.strength * step(1.05, 0.85, d) * (0.65 + 0.35 * step(0.45, 0.9, d));
            c = blend(c, [c[0] * 0.72, c[1] * 0.55, c[2] * 0.32], cover);
        }
        if let Some(l) = &self.scratch {
            let (e, k) = (l.edge(u, v), (1.0 - open) * self.strength);
            // Deep enough for a dark bottom between bright ragged burrs.
            let rough = noise(s ^ 9, 0.35 * u, 0.35 * v);
            c = blend(c, [0.86 + 0.14 * rough; 3], k * step(1.4, 0.2, e + 0.8 * rough));
            c = blend(c, [0.13, 0.12, 0.11], k * step(-0.6, -1.8, e + 0.6 * rough));
        }
        c
    }
}
