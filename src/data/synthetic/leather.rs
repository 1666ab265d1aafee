//! Brown leather: pebbles of grain between fine creases, every hide its own.

use super::canvas::*;
use super::{Flaw, Pose, Rng};
use std::f32::consts::PI;

/// Distance from pebble to pebble.
const GRAIN: f32 = 6.5;
const HIDE: Rgb = [0.47, 0.27, 0.16];

struct Leather {
    pose: Pose,
    seed: u32,
    burn: Option<Blob>,
    cut: Option<Stroke>,
    glue: Option<Blob>,
    strength: f32,
}

pub fn draw(rng: &mut Rng, pose: Pose, flaw: Option<Flaw>) -> Scene {
    let mut l = Leather { pose, seed: rng.seed(), burn: None, cut: None, glue: None, strength: 1.0 };
    if let Some(mut f) = flaw {
        let r = &mut f.rng;
        l.strength = f.strength;
        let at = (r.range(72.0, 184.0), r.range(72.0, 184.0));
        match f.kind {
            "burn" => l.burn = Some(Blob::new(r, at, f.size)),
            "cut" => {
                let angle = r.range(0.0, PI);
                l.cut = Some(Stroke::new(r, at, angle, f.size, 0.25, 9.0));
            }
            _ => l.glue = Some(Blob::new(r, at, f.size)),
        }
    }
    Box::new(move |x, y| l.shade(x, y))
}

impl Leather {
    /// Which pebble a point is on: its tone, where on it, and how far from the nearest crease (in pebbles).
    fn pebble(&self, u: f32, v: f32) -> (f32, (f32, f32), f32) {
        let (u, v) = (u / GRAIN, v / GRAIN);
        let (i, j) = (u.floor() as i32, v.floor() as i32);
        let (mut near, mut next, mut at, mut tone) = (9.0, 9.0, (0.0, 0.0), 0.0);
        for (p, q) in (-1..2).flat_map(|q| (-1..2).map(move |p| (i + p, j + q))) {
            let x = u - p as f32 - 0.5 - 0.42 * white(self.seed, p, q);
            let y = v - q as f32 - 0.5 - 0.42 * white(self.seed ^ 1, p, q);
            let d = hypot(x, y);
            if d < near {
                (next, near, at, tone) = (near, d, (x, y), white(self.seed ^ 2, p, q));
            } else if d < next {
                next = d;
            }
        }
        (tone, at, next - near)
    }

    fn shade(&self, x: f32, y: f32) -> Rgb {
        let (mut u, mut v) = self.pose.local(x, y);
        let s = self.seed;
        u += 1.6 * noise(s ^ 3, 0.11 * u, 0.11 * v);
        v += 1.6 * noise(s ^ 4, 0.11 * u, 0.11 * v);
        let (tone, at, crease) = self.pebble(u, v);
        let cloud = 1.0 + 0.05 * noise(s ^ 5, 0.015 * u, 0.015 * v) + 0.05 * noise(s ^ 6, 1.1 * u, 1.1 * v);
        let grain = (0.06 * tone + 0.22 * facing(at.0, at.1)) - 0.34 * step(0.30, 0.02, crease);
        let mut c = lit(HIDE, cloud * (1.0 + grain));
        if let Some(b) = &self.burn {
            // Charred in the middle, browned around it.
            let d = b.depth(x, y);
            let char = lit([0.085, 0.07, 0.06], 1.0 + 0.6 * fbm(s ^ 7, 0.35 * x, 0.35 * y) + 0.5 * grain);
            c = blend(c, lit([0.25, 0.12, 0.06], 1.0 + grain), self.strength * step(1.15, 0.85, d));
            c = blend(c, char, self.strength * step(0.85, 0.55, d));
        }
        if let Some(g) = &self.glue {
            // A dried, yellowish skin that fills the creases; the lamp shines on its upper left.
            let d = g.depth(x, y);
            let slope = g.depth(x + 1.5, y + 2.0) - d;
            let skin = 0.84 + 0.10 * noise(s ^ 8, 0.12 * x, 0.12 * y) + 0.12 * grain
                - 0.9 * slope * step(0.2, 0.9, d);
            c = lit(c, 1.0 - 0.3 * step(1.25, 1.0, d));
            c = blend(c, lit([0.93, 0.86, 0.66], skin), self.strength * step(1.0, 0.93, d));
        }
        if let Some(l) = &self.cut {
            // Lips turned up and lighter, raw pale fibres on the walls, dark depth between them.
            let e = l.edge(x, y) + 1.2 * noise(s ^ 10, 0.3 * x, 0.3 * y);
            let raw = lit([0.72, 0.56, 0.39], 1.0 + 0.45 * noise(s ^ 9, 0.9 * x, 0.9 * y));
            c = lit(c, 1.0 + 0.25 * step(2.5, 0.0, e));
            c = blend(c, raw, self.strength * step(0.4, -0.4, e));
            c = blend(c, [0.07, 0.045, 0.035], self.strength * step(-1.8, -2.8, e));
        }
        c
    }
}
