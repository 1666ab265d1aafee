//! A 5x7 font for labels inside pictures, drawn for this project.

use super::Rgb;

/// Pixels from one character to the next and from one line to the next, before scaling.
pub const ADVANCE: usize = 6;
pub const LINE: usize = 9;

/// ASCII 32 … 126: seven rows of five bits, the top row in the highest bits, the leftmost pixel first; `gpqy` hang two
/// rows lower.
#[rustfmt::skip]
const GLYPHS: [u64; 95] = [
    0x000000000, 0x108421004, 0x294000000, 0x295F57D4A, 0x11F4717C4, 0x674222173, 0x22944564D, 0x108000000,
    0x088842082, 0x208210888, 0x02AEFBAA0, 0x0084F9080, 0x000003088, 0x000070000, 0x00000018C, 0x042222210,
    0x3A33AE62E, 0x11942109F, 0x3A213221F, 0x78217043E, 0x08CA97C42, 0x7E1E0862E, 0x1910F462E, 0x7C2211084,
    0x3A317462E, 0x3A317844C, 0x018C03180, 0x018C03088, 0x044441041, 0x001F07C00, 0x410411110, 0x3A2111004,
    0x3A37ADE0F, 0x11518FE31, 0x7A31F463E, 0x3A308422E, 0x72518C65C, 0x7E10F421F, 0x7E10F4210, 0x3A309C62F,
    0x4631FC631, 0x38842108E, 0x1C4210A4C, 0x4654C5251, 0x42108421F, 0x4775AC631, 0x4739ACE71, 0x3A318C62E,
    0x7A31F4210, 0x3A318D64D, 0x7A31F5251, 0x3E107043E, 0x7C8421084, 0x46318C62E, 0x463152884, 0x4631AD771,
    0x462A22A31, 0x462A21084, 0x7C222221F, 0x39084210E, 0x420820821, 0x38421084E, 0x115100000, 0x00000001F,
    0x208000000, 0x000E0BE2F, 0x421E8C63E, 0x000F8420F, 0x042F8C62F, 0x000E8FE0E, 0x191E42108, 0x3E318BC2E,
    0x4216CC631, 0x100C2108E, 0x080610A4C, 0x4212A6292, 0x30842108E, 0x001AAD6B5, 0x0016CC631, 0x000E8C62E,
    0x7A318FA10, 0x3E318BC21, 0x0016CC210, 0x000F8383E, 0x211E42106, 0x00118C66D, 0x00118A944, 0x00118D6AA,
    0x001151151, 0x46319B42E, 0x001F1111F, 0x0C8441083, 0x108421084, 0x608411098, 0x0008A8800,
];

/// Writes `text` with its top left corner at `(x, y)`, `zoom` pixels a font pixel; what falls outside is cut off, and
/// a character that the font lacks shows as `?`.
pub fn draw(picture: &mut Rgb, x: usize, y: usize, zoom: usize, colour: [u8; 3], text: &str) {
    for (n, c) in text.chars().enumerate() {
        let glyph = GLYPHS[if (' '..='~').contains(&c) { c as usize - 32 } else { '?' as usize - 32 }];
        let drop = if "gpqy".contains(c) { 2 } else { 0 };
        for bit in (0..35).filter(|b| glyph >> (34 - b) & 1 == 1) {
            let (left, top) = (x + (n * ADVANCE + bit % 5) * zoom, y + (bit / 5 + drop) * zoom);
            picture.fill(left, top, zoom, zoom, colour);
        }
    }
}
