//! Functions that the device runtime provides: vprintf, __assertfail, malloc, free.

use super::{Access, Cta, Kind, Mask, Order, Warp};
use crate::error::{Code, Fault};
use crate::ptx::ast::Space;
use std::fmt::Write;

/// Does the work for the lanes of the mask: parameters are in the next frame's param memory, from 0 on, and the result
/// goes to where they begin.
pub type Builtin = fn(&mut Warp, &mut Cta, Mask) -> Result<(), Fault>;

/// By its name in PTX.
pub fn named(name: &str) -> Option<Builtin> {
    Some(match name {
        "vprintf" => printf,
        "__assertfail" => assert,
        "malloc" => malloc,
        "free" => free,
        _ => return None,
    })
}

fn argument(w: &Warp, cta: &mut Cta, lane: usize, at: u64, bytes: u64) -> u64 {
    let thread = w.id as usize * 32 + lane;
    let b = cta.param_bytes(w.depth + 1, thread, at, bytes).map_or(vec![], |b| b.to_vec());
    b.iter().rev().fold(0, |x, &b| x << 8 | u64::from(b))
}

fn result(w: &Warp, cta: &mut Cta, lane: usize, x: u64, bytes: u64) {
    let thread = w.id as usize * 32 + lane;
    if let Some(b) = cta.param_bytes(w.depth + 1, thread, 0, bytes) {
        b.copy_from_slice(&x.to_le_bytes()[..bytes as usize]);
    }
}

fn each(mask: Mask) -> impl Iterator<Item = usize> {
    (0..32).filter(move |l| mask >> l & 1 == 1)
}

/// Reads generic memory of one lane.
fn read(w: &Warp, cta: &mut Cta, lane: usize, address: u64, bytes: u32) -> Result<u64, Fault> {
    let mut addresses = [0; 32];
    addresses[lane] = address;
    let (mask, space) = (1 << lane, Space::Generic);
    let a = Access { kind: Kind::Read, space, addresses: &addresses, bytes, mask, order: Order::Weak };
    let p = cta.access(w, &a)?[lane];
    let mut x = [0; 8];
    // SAFETY: `access` vouches for `bytes` bytes, at most 8, at the pointer.
    unsafe { std::ptr::copy_nonoverlapping(p, x.as_mut_ptr(), bytes as usize) };
    Ok(u64::from_le_bytes(x))
}

/// A string, up to a length that no format has.
fn string(w: &Warp, cta: &mut Cta, lane: usize, address: u64) -> Result<String, Fault> {
    let mut s = vec![];
    while s.len() < 4096 {
        match read(w, cta, lane, address + s.len() as u64, 1)? {
            0 => break,
            b => s.push(b as u8),
        }
    }
    Ok(String::from_utf8_lossy(&s).into_owned())
}

fn printf(w: &mut Warp, cta: &mut Cta, mask: Mask) -> Result<(), Fault> {
    for lane in each(mask) {
        let (format, mut at) = (argument(w, cta, lane, 0, 8), argument(w, cta, lane, 8, 8));
        let format = string(w, cta, lane, format)?;
        let mut out = String::new();
        let mut rest = format.chars().peekable();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut spec = String::new();
            let mut kind = None;
            for c in rest.by_ref() {
                if c.is_ascii_alphabetic() && !"hlLjzt".contains(c) || c == '%' {
                    kind = Some(c);
                    break;
                }
                spec.push(c);
            }
            let Some(kind) = kind else { break };
            if kind == '%' {
                out.push('%');
                continue;
            }
            let wide = spec.contains(['l', 'j', 'z', 't']) || "speEfgGaA".contains(kind);
            let bytes = if wide { 8 } else { 4 };
            at = at.div_ceil(bytes) * bytes;
            let x = read(w, cta, lane, at, bytes as u32)?;
            at += bytes;
            let text = if kind == 's' { string(w, cta, lane, x)? } else { String::new() };
            put(&mut out, &spec, kind, x, wide, text);
        }
        cta.printed.push_str(&out);
        result(w, cta, lane, format.matches('%').count() as u64, 4);
    }
    Ok(())
}

/// One conversion, as C's printf does it.
fn put(out: &mut String, spec: &str, kind: char, x: u64, wide: bool, text: String) {
    let flags = spec.trim_end_matches(|c: char| "hlLjzt".contains(c));
    let body = flags.trim_start_matches(['-', '+', ' ', '#', '0']);
    let flags = &flags[..flags.len() - body.len()];
    let (width, precision) =
        body.split_once('.').map_or((body, None), |(w, p)| (w, Some(p.parse().unwrap_or(0))));
    let width: usize = width.parse().unwrap_or(0).min(4096);
    let precision: Option<usize> = precision.map(|p: usize| p.min(4096));
    let signed = if wide { x as i64 } else { i64::from(x as u32 as i32) };
    let digits = |s: String| format!("{s:0>n$}", n = precision.unwrap_or(1));
    let sign = |negative: bool| match negative {
        true => "-",
        false if flags.contains('+') => "+",
        false if flags.contains(' ') => " ",
        false => "",
    };
    let f = f64::from_bits(x);
    let (prefix, s) = match kind {
        'd' | 'i' => (sign(signed < 0), digits(signed.unsigned_abs().to_string())),
        'u' => ("", digits(x.to_string())),
        'x' => (if flags.contains('#') { "0x" } else { "" }, digits(format!("{x:x}"))),
        'X' => (if flags.contains('#') { "0X" } else { "" }, digits(format!("{x:X}"))),
        'o' => ("", digits(format!("{x:o}"))),
        'p' => ("0x", format!("{x:x}")),
        'c' => ("", char::from(x as u8).to_string()),
        's' => ("", text.chars().take(precision.unwrap_or(usize::MAX)).collect()),
        'e' | 'E' => (sign(f.is_sign_negative()), exponent(f.abs(), precision.unwrap_or(6), kind)),
        'g' | 'G' => (sign(f.is_sign_negative()), general(f.abs(), precision.unwrap_or(6).max(1), kind)),
        'f' | 'F' => {
            (sign(f.is_sign_negative()), format!("{:.*}", precision.unwrap_or(6), f.abs()).to_lowercase())
        }
        _ => ("", format!("{f:?}")),
    };
    let fill = width.saturating_sub(prefix.len() + s.chars().count());
    let number = kind != 's' && kind != 'c' && (precision.is_none() || "eEfFgG".contains(kind));
    let _ = if flags.contains('-') {
        write!(out, "{prefix}{s}{:fill$}", "")
    } else if flags.contains('0') && number {
        write!(out, "{prefix}{}{s}", "0".repeat(fill))
    } else {
        write!(out, "{:fill$}{prefix}{s}", "")
    };
}

fn exponent(x: f64, precision: usize, kind: char) -> String {
    if !x.is_finite() {
        return format!("{x}").to_lowercase();
    }
    let s = format!("{x:.precision$e}");
    let (digits, power) = s.split_once('e').unwrap_or((&s, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    let (mark, sign) = (if kind.is_uppercase() { 'E' } else { 'e' }, if power < 0 { '-' } else { '+' });
    format!("{digits}{mark}{sign}{:02}", power.abs())
}

fn general(x: f64, precision: usize, kind: char) -> String {
    let power = exponent(x, precision - 1, 'e').split_once('e').and_then(|p| p.1.parse::<i32>().ok());
    let Some(power) = power else { return format!("{x}").to_lowercase() };
    let trim = |s: &str| match s.contains('.') {
        true => s.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => s.to_string(),
    };
    if power < -4 || power >= precision as i32 {
        let mark = if kind == 'G' { 'E' } else { 'e' };
        let s = exponent(x, precision - 1, kind);
        let (digits, power) = s.split_once(mark).unwrap_or((&s, "+00"));
        format!("{}{mark}{power}", trim(digits))
    } else {
        trim(&format!("{x:.*}", (precision as i32 - 1 - power).max(0) as usize))
    }
}

fn assert(w: &mut Warp, cta: &mut Cta, mask: Mask) -> Result<(), Fault> {
    let lane = mask.trailing_zeros() as usize;
    let [message, file, line, function] =
        [(0, 8), (8, 8), (16, 4), (24, 8)].map(|(a, n)| argument(w, cta, lane, a, n));
    let [message, file, function] = [message, file, function].map(|p| string(w, cta, lane, p));
    let what = format!("{}:{line}: {}: assertion `{}` failed", file?, function?, message?);
    Err(Fault { lane: Some(lane as u32), ..Fault::new(Code::AssertFailed, what) })
}

fn malloc(w: &mut Warp, cta: &mut Cta, mask: Mask) -> Result<(), Fault> {
    let poison = cta.launch.options.seed.is_some();
    for lane in each(mask) {
        let bytes = argument(w, cta, lane, 0, 8);
        let at = cta.launch.memory.allocate(bytes, poison).unwrap_or(0);
        result(w, cta, lane, at, 8);
    }
    Ok(())
}

fn free(w: &mut Warp, cta: &mut Cta, mask: Mask) -> Result<(), Fault> {
    for lane in each(mask) {
        let at = argument(w, cta, lane, 0, 8);
        if at != 0 && cta.launch.memory.free(at).is_err() {
            let what = format!("free of {at:#x}, where no allocation begins");
            return Err(Fault { lane: Some(lane as u32), ..Fault::new(Code::IllegalAddress, what) });
        }
    }
    Ok(())
}
