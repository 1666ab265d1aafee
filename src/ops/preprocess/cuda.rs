//! Frames to crops on a GPU, with the bits of [`super::Cropper`], in two launches: kernels/preprocess.cu.

use bytemuck::{Pod, Zeroable};

use super::{ImageView, PixelFormat, Plan, Taps, crop_offset};
use crate::error::{Error, Result};
use crate::runtime::cuda::{Buffer, DevicePtr, Geometry, Gpu, Stream, Work};

/// What all frames of a batch look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// Bytes from row to row.
    pub stride: usize,
    /// How bytes are to be read.
    pub format: PixelFormat,
}

impl Frame {
    /// That of a picture.
    pub fn of(view: &ImageView) -> Self {
        Self { width: view.width, height: view.height, stride: view.stride, format: view.format }
    }
    /// Bytes from frame to frame on the device.
    pub fn spacing(&self) -> usize {
        self.stride.saturating_mul(self.height).saturating_add(15) & !15
    }
}

/// Mirrors `PreprocessParams` of kernels/preprocess.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    from: DevicePtr<u8>,
    to: DevicePtr<u8>,
    taps: DevicePtr<i32>,
    from_image: u64,
    to_image: u64,
    from_row: u64,
    to_row: u64,
    outputs: u32,
    other: u32,
    origin: u32,
    format: u32,
}

/// Rows of a thread across, and threads of a block at most; bytes of a thread down, and threads of a block.
const ACROSS: [usize; 2] = [4, 512];
const DOWN: [usize; 2] = [16, 128];

/// One of the passes. Places are relative to the buffers that it is run with.
#[derive(Clone, Copy)]
struct Pass {
    kernel: &'static str,
    /// Bytes into the source, elements into the taps.
    from: usize,
    taps: usize,
    params: Params,
}

/// Resizes frames on a GPU to `resize`² and takes the centre `crop`². Keeps the coefficients of one kind of frame.
pub struct Cropper {
    gpu: Gpu,
    resize: usize,
    crop: usize,
    ready: Option<Ready>,
}

/// What one kind of frame needs.
struct Ready {
    frame: Frame,
    batch: usize,
    passes: [Pass; 2],
    taps: Buffer<i32>,
    between: Buffer<u8>,
}

impl Cropper {
    /// Errors as [`crop_offset`].
    pub fn new(gpu: &Gpu, resize: usize, crop: usize) -> Result<Self> {
        crop_offset(resize, crop)?;
        Ok(Self { gpu: gpu.clone(), resize, crop, ready: None })
    }

    /// For batches of `batch` of these frames; says whether anything changed (then a captured [`Cropper::run`] must be
    /// captured again). Errors: no frames, or so large that the kernels cannot count their pixels; memory.
    pub fn prepare(&mut self, frame: &Frame, batch: usize) -> Result<bool> {
        if self.ready.as_ref().is_some_and(|r| r.frame == *frame && r.batch == batch) {
            return Ok(false);
        }
        let row = frame.width.checked_mul(frame.format.bytes());
        // Every place and every thread is counted in 32 bits.
        let most =
            frame.width.max(frame.stride / 4).max(3 * self.crop).saturating_mul(frame.height.max(self.crop));
        if [frame.width, frame.height, batch].contains(&0)
            || row.is_none_or(|r| r > frame.stride)
            || most >> 31 != 0
            || batch > 65_535
        {
            return Err(Error::Shape {
                op: "preprocess",
                tensor: "frame",
                wanted: "1 to 65535 frames of 1 to 2^31 pixels in rows of stride bytes".into(),
                got: format!("{batch} of {frame:?}"),
            });
        }
        self.ready = None;
        let offset = crop_offset(self.resize, self.crop)?;
        let part = offset..offset + self.crop;
        let mut plan = Plan::default();
        plan.set((frame.width, frame.height), (self.resize, self.resize), (part.clone(), part));
        let table = [&plan.x, &plan.y].map(columns);
        let (passes, between) = self.passes(frame, &plan, table[0].len());
        self.ready = Some(Ready {
            frame: *frame,
            batch,
            passes,
            taps: self.gpu.upload(&table.concat())?,
            // Whole 16 bytes are read: what no row reaches must be something.
            between: self.gpu.zeros(between * batch)?,
        });
        Ok(true)
    }

    /// Both passes, and bytes of what lies between them for one frame. `y_taps`: where the taps of y begin.
    fn passes(&self, f: &Frame, plan: &Plan, y_taps: usize) -> ([Pass; 2], usize) {
        let (x, y, step, row) = (plan.x.inputs(), plan.y.inputs(), f.format.bytes(), 3 * self.crop);
        let out = Params {
            from_image: f.spacing() as u64,
            to_image: (row * self.crop) as u64,
            from_row: f.stride as u64,
            to_row: row as u64,
            outputs: self.crop as u32,
            format: f.format as u32,
            ..Params::zeroed()
        };
        let across = Pass { kernel: "preprocess_fwd_across_u8", from: 0, taps: 0, params: out };
        let down = Pass { kernel: "preprocess_fwd_down_u8", taps: y_taps, ..across };
        // First rows or columns that the crop needs; they and what is needed of them stay in 4-byte steps.
        let (mut first, mut second, skipped, lines, width) = if plan.rows_first {
            (across, down, y.start * f.stride, y.len(), row)
        } else {
            let left = x.start / 4 * 4;
            (down, across, left * step, self.crop, (x.end - left) * step)
        };
        let pitch = width.next_multiple_of(16);
        first.from = skipped;
        first.params.to_row = pitch as u64;
        first.params.to_image = (pitch * lines) as u64;
        second.params.from_row = pitch as u64;
        second.params.from_image = (pitch * lines) as u64;
        if plan.rows_first {
            first.params.other = lines as u32;
            (second.params.other, second.params.origin) = (row as u32, y.start as u32);
        } else {
            first.params.other = width as u32;
            (second.params.other, second.params.origin) = (self.crop as u32, (x.start / 4 * 4) as u32);
        }
        ([first, second], pitch * lines)
    }

    /// frames, as many as prepared for, [`Frame::spacing`] apart → out `(B, crop, crop, 3)`, RGB.
    ///
    /// Errors: not prepared, buffers of other sizes, frames that do not begin at a multiple of 16 bytes, launches that fail.
    pub fn run(&self, stream: &Stream, out: &Buffer<u8>, frames: &Buffer<u8>) -> Result<()> {
        let Some(r) = &self.ready else {
            return Err(Error::usage("preprocess: frames were not prepared for: call prepare first"));
        };
        out.expect("preprocess", "out", 3 * self.crop * self.crop * r.batch)?;
        frames.expect("preprocess", "frames", r.frame.spacing() * r.batch)?;
        let (between, at) = (r.between.ptr(), frames.ptr().address());
        if at % 16 != 0 {
            return Err(Error::usage(format!(
                "preprocess: frames must begin at a multiple of 16 bytes on the device, not at {at:#x}"
            )));
        }
        for (pass, from, to) in [(&r.passes[0], frames.ptr(), between), (&r.passes[1], between, out.ptr())] {
            let p = Params { from: from.at(pass.from), to, taps: r.taps.ptr().at(pass.taps), ..pass.params };
            let (outputs, other) = (p.outputs as usize, p.other as usize);
            let ([x, y], block) = if pass.kernel.contains("across") {
                // Even shares of the columns, in whole warps, a row's at least.
                let block = outputs.div_ceil(outputs.div_ceil(ACROSS[1])).next_multiple_of(32);
                let block = block.max(32 * ACROSS[0]);
                ([other.div_ceil(ACROSS[0]), outputs.div_ceil(block)], block)
            } else {
                ([(outputs * other.div_ceil(DOWN[0])).div_ceil(DOWN[1]), 1], DOWN[1])
            };
            let geometry =
                Geometry { grid: [x as u32, y as u32, r.batch as u32], block: block as u32, shared: 0 };
            let bytes = (p.from_image + p.to_image) as usize * r.batch;
            let work = Work::new(&[r.batch, outputs, other], 0, bytes);
            self.gpu.kernel(pass.kernel)?.doing(work).launch(stream, geometry, &p)?;
        }
        Ok(())
    }
}

/// First, count, then one coefficient of each output after the other: neighbouring outputs are neighbours.
fn columns(t: &Taps) -> Vec<i32> {
    let spans = t.spans.iter().map(|s| s.0).chain(t.spans.iter().map(|s| s.1)).map(|x| x as i32);
    spans.chain((0..t.width).flat_map(|j| t.k.iter().copied().skip(j).step_by(t.width))).collect()
}
