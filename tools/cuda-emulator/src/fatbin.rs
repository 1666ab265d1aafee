//! Fat binaries: the PTX that the loader would compile for a device. Layout as `cuobjdump` shows it: a header of 16 bytes,
//! then entries of a header and a payload (kind 1 is PTX, 2 machine code).

use crate::gpu::Gpu;

const LZ4: u64 = 0x2000;
const ZSTD: u64 = 0x8000;

fn at<const N: usize>(b: &[u8], i: usize) -> Option<[u8; N]> {
    b.get(i..i.checked_add(N)?)?.try_into().ok()
}
fn word(b: &[u8], i: usize) -> Option<u32> {
    at(b, i).map(u32::from_le_bytes)
}
fn long(b: &[u8], i: usize) -> Option<u64> {
    at(b, i).map(u64::from_le_bytes)
}

/// The newest PTX that the device runs. Machine code is passed over: it cannot be emulated.
pub fn choose(all: &[u8], gpu: &Gpu) -> Result<String, String> {
    let own = gpu.capability.0 * 10 + gpu.capability.1;
    let mut best: Option<(u32, String)> = None;
    let mut seen = Vec::new();
    let mut i = 16;
    while let (Some(head), Some(header), Some(size)) = (word(all, i), word(all, i + 4), long(all, i + 8)) {
        let arch = word(all, i + 28).unwrap_or(0);
        let start = i.saturating_add(header as usize);
        let end = start.saturating_add(size as usize);
        let Some(payload) = all.get(start..end) else { break };
        if head & 0xffff == 1 && header >= 64 {
            let flags = long(all, i + 40).unwrap_or(0);
            let text = match flags & (LZ4 | ZSTD) {
                0 => payload.to_vec(),
                LZ4 => {
                    let packed = word(all, i + 16).unwrap_or(0) as usize;
                    let room = long(all, i + 56).unwrap_or(0) as usize;
                    let packed = payload.get(..packed).ok_or("a fat binary's compressed PTX is cut short")?;
                    lz4(packed, room).ok_or("a fat binary's compressed PTX cannot be read")?
                }
                _ => {
                    return Err(
                        "a fat binary's PTX is compressed with zstd: compile with --no-compress".into()
                    );
                }
            };
            let text = String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned();
            let target =
                text.lines().find_map(|l| l.trim().strip_prefix(".target sm_")).unwrap_or("").to_owned();
            let plain = !target.trim_end_matches(|c: char| ", ".contains(c)).ends_with(['a', 'f']);
            if arch <= own && (plain || arch == own) && best.as_ref().is_none_or(|b| b.0 <= arch) {
                best = Some((arch, text));
            }
            seen.push(format!("sm_{target}"));
        }
        if end <= i {
            break;
        }
        i = end;
    }
    best.map(|b| b.1).ok_or_else(|| {
        let seen =
            if seen.is_empty() { "no PTX".into() } else { format!("PTX for {} only", seen.join(", ")) };
        format!("a fat binary holds {seen}: nothing that sm_{own} runs")
    })
}

/// An LZ4 block of at most `room` bytes.
fn lz4(b: &[u8], room: usize) -> Option<Vec<u8>> {
    if room > 1 << 30 {
        return None;
    }
    let (mut out, mut i) = (Vec::new(), 0);
    let length = |first: usize, i: &mut usize| -> Option<usize> {
        let mut n = first;
        if first == 15 {
            loop {
                let x = *b.get(*i)?;
                *i += 1;
                n += x as usize;
                if x != 255 {
                    break;
                }
            }
        }
        Some(n)
    };
    while i < b.len() {
        let token = b[i] as usize;
        i += 1;
        let literals = length(token >> 4, &mut i)?;
        out.extend_from_slice(b.get(i..i.checked_add(literals)?)?);
        i += literals;
        if i >= b.len() {
            break;
        }
        let back = u16::from_le_bytes(at(b, i)?) as usize;
        i += 2;
        let n = length(token & 15, &mut i)? + 4;
        if back == 0 || back > out.len() || out.len() + n > room {
            return None;
        }
        for _ in 0..n {
            out.push(out[out.len() - back]);
        }
    }
    (out.len() == room).then_some(out)
}
