//! A machined spur gear on a conveyor belt.

use super::canvas::*;
use super::{Flaw, Pose, Rng};
use std::f32::consts::{PI, TAU};

const TEETH: f32 = 12.0;
const ROOT: f32 = 76.0;
const TIP: f32 = 97.0;
/// Inner and outer radius of the turned recess, radius of the bore.
const RECESS: (f32, f32) = (33.0, 68.0);
const BORE: f32 = 15.0;
/// Circle of the three lightening holes, and their radius.
const HOLES: (f32, f32) = (50.5, 12.0);

struct Gear {
    pose: Pose,
    belt: u32,
    belt_at: (f32, f32),
    steel: u32,
    broken: Option<(f32, f32)>,
    rust: Option<Blob>,
    gouge: Option<Stroke>,
    strength: f32,
}

pub fn draw(rng: &mut Rng, pose: Pose, flaw: Option<Flaw>) -> Scene {
    let belt_at = (rng.range(0.0, 8.0), rng.range(0.0, 8.0));
    let (belt, steel) = (rng.seed(), rng.seed());
    let mut g = Gear { pose, belt, belt_at, steel, broken: None, rust: None, gouge: None, strength: 1.0 };
    if let Some(mut f) = flaw {
        let r = &mut f.rng;
        g.strength = f.strength;
        let a = r.range(0.0, TAU);
        let at = |radius: f32| (radius * libm::cosf(a), radius * libm::sinf(a));
        match f.kind {
            "broken_tooth" => g.broken = Some((r.pick(TEETH as usize) as f32, f.size)),
            "rust" => g.rust = Some(Blob::new(r, at(74.0), f.size)),
            _ => {
                let angle = r.range(0.0, PI);
                g.gouge = Some(Stroke::new(r, at(52.0), angle, f.size, 0.12, 8.0));
            }
        }
    }
    Box::new(move |x, y| g.shade(x, y))
}

impl Gear {
    /// Radius at which the broken tooth, if this is the one, ends: the break is slanted and uneven.
    fn fracture(&self, x: f32, y: f32) -> Option<f32> {
        let (k, depth) = self.broken?;
        let turn = (libm::atan2f(y, x) / TAU + 1.0) * TEETH;
        let slant = 8.0 * (turn - turn.floor() - 0.5);
        let end = TIP - (TIP - ROOT) * depth + slant + 0.9 * noise(self.steel, 0.5 * x, 0.5 * y);
        (turn.floor() % TEETH == k).then_some(end)
    }

    /// Signed distance to the gear's outline, about (negative on metal), at a point of the part.
    fn outline(&self, x: f32, y: f32) -> f32 {
        let r = hypot(x, y);
        let hole = (BORE - r).max(-rounded_box(x, y - BORE, 3.2, 4.5, 0.5));
        if r < RECESS.0 {
            return hole;
        }
        if r < RECESS.1 {
            let (c, s) = (0.5, 0.866_025_4);
            return [(-1.0, 0.0), (c, s), (c, -s)]
                .iter()
                .fold(r - TIP, |d: f32, h| d.max(HOLES.1 - hypot(x - HOLES.0 * h.0, y - HOLES.0 * h.1)));
        }
        let turn = (libm::atan2f(y, x) / TAU + 1.0) * TEETH;
        let tooth = turn.floor();
        let flank = (0.5 - (turn - tooth - 0.5).abs()) * 2.0;
        let edge = ROOT + (TIP - ROOT) * ((flank - 0.3) / 0.34).clamp(0.0, 1.0);
        r - edge.min(self.fracture(x, y).unwrap_or(TIP))
    }

    fn belt(&self, x: f32, y: f32) -> Rgb {
        let (u, v) = (x + self.belt_at.0, y + self.belt_at.1);
        let rib = libm::sinf((u + v) * (TAU / 8.0)) * libm::sinf((u - v) * (TAU / 8.0));
        lit(
            [0.13, 0.25, 0.22],
            1.0 + 0.22 * rib
                + 0.10 * fbm(self.belt, 0.5 * u, 0.5 * v)
                + 0.06 * noise(self.belt, 0.03 * u, 0.03 * v),
        )
    }

    fn shade(&self, x: f32, y: f32) -> Rgb {
        let (u, v) = self.pose.local(x, y);
        let d = if hypot(u, v) > TIP + 14.0 { 14.0 } else { self.outline(u, v) };
        if d > 0.0 {
            let (su, sv) = self.pose.local(x - 4.0, y - 5.5);
            let shadow = step(4.0, -4.0, self.outline(su, sv));
            let contact = step(7.0, 0.0, d);
            return lit(self.belt(x, y), (1.0 - 0.55 * shadow) * (1.0 - 0.35 * contact));
        }
        let (wx, wy) = (x - self.pose.at.0, y - self.pose.at.1);
        let r = hypot(wx, wy).max(1e-3);
        let (nx, ny) = (wx / r, wy / r);
        let pr = hypot(u, v);
        let recessed = pr > RECESS.0 && pr < RECESS.1;
        // A turned face shines in two opposite sectors, square to the lamp.
        let sector = nx * 0.8 - ny * 0.6;
        let groove = noise(self.steel, 1.1 * pr, 0.5) * 0.6 + noise(self.steel, 2.7 * pr, 9.5) * 0.4;
        let mut k = 0.60 + 0.10 * (2.0 * sector * sector - 1.0) + 0.035 * groove;
        k += 0.02 * fbm(self.steel, 0.25 * u, 0.25 * v) - if recessed { 0.11 } else { 0.0 };
        // Walls of the recess and chamfers at every outline.
        let wall =
            |radius: f32, out: f32| step(1.8, 0.0, (pr - radius).abs()) * 0.22 * facing(out * nx, out * ny);
        k += wall(RECESS.1, -1.0) + wall(RECESS.0, 1.0);
        if d > -2.6 {
            let (du, dv) = (self.pose.local(x + 0.5, y), self.pose.local(x, y + 0.5));
            let (gx, gy) = (self.outline(du.0, du.1) - d, self.outline(dv.0, dv.1) - d);
            let n = hypot(gx, gy).max(1e-3);
            k += 0.20 * facing(gx / n, gy / n) * step(-2.6, -1.0, d);
        }
        let mut c = lit([0.98, 1.0, 1.03], k);
        if let Some(end) = self.fracture(u, v) {
            // The torn face is coarse; an old crack has rusted it, the last of it broke bright.
            let tone = 1.0 + 0.8 * fbm(self.steel ^ 7, 0.45 * u, 0.45 * v);
            let grain = blend([0.30, 0.20, 0.14], [0.62, 0.58, 0.54], step(end - 6.0, end - 2.0, pr));
            let torn = pr + 2.0 * noise(self.steel ^ 8, 0.4 * u, 0.4 * v);
            c = blend(c, lit(grain, tone), self.strength * step(end - 14.0, end - 12.0, torn));
        }
        if let Some(rust) = &self.rust {
            let cover = step(1.05, 0.7, rust.depth(u, v)) * self.strength;
            let tone = 0.9 + 0.5 * fbm(self.steel ^ 5, 0.45 * u, 0.45 * v);
            c = blend(
                c,
                lit([0.47, 0.25, 0.12], tone),
                cover * (0.8 + 0.2 * noise(self.steel ^ 6, 0.8 * u, 0.8 * v)),
            );
        }
        if let Some(s) = &self.gouge {
            // A grinder slipped: heat tint along a dark groove with a bright bottom.
            let e = s.edge(u, v);
            c = blend(c, [0.42, 0.30, 0.20], 0.8 * self.strength * step(4.5, 1.0, e));
            c = blend(c, [0.10, 0.10, 0.16], self.strength * step(0.6, -0.6, e));
            let bottom = 0.85 + 0.3 * noise(self.steel ^ 9, 0.8 * u, 0.8 * v);
            c = blend(c, [bottom; 3], self.strength * step(-1.6, -2.6, e));
        }
        c
    }
}
