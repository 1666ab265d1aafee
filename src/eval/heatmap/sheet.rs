//! Contact sheets: input, heat map and defect outline side by side, with labels and the scale.

use super::font::{ADVANCE, LINE, draw};
use super::{Rgb, check, colour, overlay};
use crate::error::{Error, Result};

/// One picture of a contact sheet.
pub struct SheetRow<'a> {
    /// Drawn as it is, and under its map.
    pub picture: &'a Rgb,
    /// `(side, side)`.
    pub map: &'a [f32],
    /// `(side, side)`, non-zero meaning anomalous; its outline is drawn.
    pub mask: Option<&'a [u8]>,
    /// Printed over the picture.
    pub title: &'a str,
    /// Printed beside the title.
    pub score: f32,
}

/// How a contact sheet looks.
pub struct Sheet<'a> {
    /// Printed at the top.
    pub title: &'a str,
    /// Of the maps and masks.
    pub side: usize,
    /// Map values at the two ends of the colour map.
    pub scale: (f32, f32),
    /// Largest width and height of a picture on the sheet, in pixels; at least 64.
    pub cell: usize,
    /// Pictures side by side, each with its panels.
    pub columns: usize,
}

const GAP: usize = 8;
const PAPER: [u8; 3] = [250, 250, 248];
const INK: [u8; 3] = [30, 30, 34];
const FAINT: [u8; 3] = [110, 110, 116];
const OUTLINE: [u8; 3] = [0, 235, 120];

/// The sheet as a picture. Pictures keep their aspect ratio; the outline panel is left out where no row has a mask.
///
/// Errors: no rows; a map or mask of another size than `side`; a map value or a scale that is not finite.
pub fn contact_sheet(rows: &[SheetRow], sheet: &Sheet) -> Result<Rgb> {
    if rows.is_empty() {
        return Err(Error::usage("a contact sheet needs at least one picture"));
    }
    let cell = sheet.cell.max(64);
    let names: &[&str] = match rows.iter().any(|r| r.mask.is_some()) {
        true => &["input", "heat map", "defect"],
        false => &["input", "heat map"],
    };
    let columns = sheet.columns.clamp(1, rows.len());
    let block = names.len() * (cell + GAP) + GAP;
    let (top, caption) = (GAP + 2 * LINE + GAP + LINE + 4, LINE + 4);
    let legend = GAP + 12 + 4 + LINE + GAP;
    let pictures = rows.iter().map(|r| shrink(r.picture, cell)).collect::<Result<Vec<_>>>()?;
    // A line of the grid is as high as its tallest picture.
    let heights: Vec<usize> = pictures
        .chunks(columns)
        .map(|line| caption + line.iter().map(|p| p.height).max().unwrap_or(0) + GAP)
        .collect();
    let height = top + heights.iter().sum::<usize>() + legend;
    let mut out = Rgb::filled(columns * block + GAP, height, PAPER);
    // The end of a path says more than its beginning.
    let fit = |text: &str, width: usize, zoom: usize| -> String {
        let room = width / (ADVANCE * zoom);
        match text.chars().count() > room {
            true => "..".chars().chain(text.chars().skip(text.chars().count() + 2 - room.max(2))).collect(),
            false => text.to_string(),
        }
    };
    draw(&mut out, 2 * GAP, GAP, 2, INK, &fit(sheet.title, columns * block - GAP, 2));
    for c in 0..columns {
        for (p, name) in names.iter().enumerate() {
            draw(&mut out, c * block + 2 * GAP + p * (cell + GAP), top - LINE - 2, 1, FAINT, name);
        }
    }
    for (n, (row, small)) in rows.iter().zip(&pictures).enumerate() {
        let (x, y) = (n % columns * block + 2 * GAP, top + heights[..n / columns].iter().sum::<usize>());
        let score = number(row.score);
        let room = block - 2 * GAP - (score.len() + 2) * ADVANCE;
        draw(&mut out, x, y + 2, 1, INK, &fit(row.title, room, 1));
        draw(&mut out, x + block - 2 * GAP - score.len() * ADVANCE, y + 2, 1, INK, &score);
        let heat = overlay(&small.data, small.width, small.height, row.map, sheet.side, sheet.scale)?;
        let heat = Rgb { data: heat, ..*small };
        let mut panels = vec![small.clone(), heat];
        if let Some(mask) = row.mask {
            check("mask", mask.len(), &[sheet.side, sheet.side])?;
            panels.push(outline(small.clone(), mask, sheet.side));
        }
        for (p, panel) in panels.iter().enumerate() {
            out.paste(x + p * (cell + GAP) + (cell - small.width) / 2, y + caption, panel);
        }
    }
    let (x, y, width) = (2 * GAP, height - legend + GAP, (block - 3 * GAP).min(256));
    for i in 0..width {
        out.fill(x + i, y, 1, 12, colour(i as f32 / (width - 1) as f32));
    }
    let (low, high) = (number(sheet.scale.0), number(sheet.scale.1));
    draw(&mut out, x, y + 16, 1, FAINT, &low);
    draw(&mut out, x + width - high.len() * ADVANCE, y + 16, 1, FAINT, &high);
    draw(&mut out, x + width + GAP, y + 3, 1, FAINT, "anomaly value");
    Ok(out)
}

/// Four decimals where they show the number, else three significant digits; never more than 11 characters.
fn number(x: f32) -> String {
    if x == 0.0 || (0.001..100_000.0).contains(&x.abs()) { format!("{x:.4}") } else { format!("{x:.2e}") }
}

/// The picture scaled to fit `cell` x `cell`, averaged where it gets smaller.
fn shrink(picture: &Rgb, cell: usize) -> Result<Rgb> {
    check("picture", picture.data.len(), &[picture.height, picture.width, 3])?;
    let longest = picture.width.max(picture.height);
    let scaled = |len: usize| ((len * cell + longest / 2) / longest).max(1);
    let (width, height) = (scaled(picture.width), scaled(picture.height));
    let view = image::ImageBuffer::<image::Rgb<u8>, &[u8]>::from_raw(
        picture.width as u32,
        picture.height as u32,
        &picture.data,
    );
    let Some(view) = view else { return Ok(picture.clone()) };
    let filter = image::imageops::FilterType::Triangle;
    let data = image::imageops::resize(&view, width as u32, height as u32, filter).into_raw();
    Ok(Rgb { width, height, data })
}

/// The picture with the mask's border on it, two pixels wide with a dark rim so that it shows on any ground.
fn outline(mut picture: Rgb, mask: &[u8], side: usize) -> Rgb {
    let (w, h) = (picture.width as isize, picture.height as isize);
    let inside = |x: isize, y: isize| {
        (0..w).contains(&x) && (0..h).contains(&y) && {
            let (i, j) = (x as usize * side / w as usize, y as usize * side / h as usize);
            mask[j * side + i] != 0
        }
    };
    for y in 0..h {
        for x in 0..w {
            let near =
                |inner: bool, r: isize| (-r..=r).any(|dy| (-r..=r).any(|dx| inside(x + dx, y + dy) == inner));
            let colour = match inside(x, y) {
                true if near(false, 1) => OUTLINE,
                false if near(true, 1) => OUTLINE,
                false if near(true, 2) => INK,
                _ => continue,
            };
            picture.fill(x as usize, y as usize, 1, 1, colour);
        }
    }
    picture
}
