//! Pictures as they come, scored some at a time: a GPU works at two batches in turn while the caller loads the next.

use std::collections::VecDeque;
use std::time::Instant;

use super::{On, Scorer, Verdict};
use crate::error::{Error, Result};

/// Pictures of a batch at most.
pub const MOST: usize = crate::engine::cuda::PIECE;

/// A picture that was scored, with what came with it.
pub struct Scored<T> {
    /// What the caller gave.
    pub with: T,
    /// What is said of it.
    pub verdict: Verdict,
    /// Milliseconds that it took; on a GPU its share of those between two batches.
    pub ms: f64,
}

/// What came with a picture and its crop `(X, X, 3)` RGB, or why there is none.
type Loaded<T> = Result<(T, Vec<u8>)>;

/// Scores pictures in the order of [`Batches::push`]; made by [`Scorer::batches`].
pub struct Batches<'a, T, F> {
    scorer: &'a mut Scorer,
    size: usize,
    each: F,
    next: Vec<Loaded<T>>,
    /// On a GPU, oldest first, and when each was queued.
    under_way: VecDeque<(Vec<Loaded<T>>, Instant)>,
    /// When the last batch ended.
    last: Instant,
    done: usize,
}

impl Scorer {
    /// Scores pictures as they come, `size` at a time (1 to [`MOST`]), each with the bits that it has alone. `each` gets every
    /// picture once, with its number from 0 on, in order: on a GPU up to three batches after it was given. An error of `each`
    /// ends everything.
    pub fn batches<T, F>(&mut self, size: usize, each: F) -> Batches<'_, T, F>
    where
        F: FnMut(usize, Result<Scored<T>>) -> Result<()>,
    {
        if let On::Cuda(on) = &mut self.on {
            on.forget();
        }
        let (size, last) = (size.clamp(1, MOST), Instant::now());
        Batches { scorer: self, size, each, next: Vec::new(), under_way: VecDeque::new(), last, done: 0 }
    }
}

impl<T, F: FnMut(usize, Result<Scored<T>>) -> Result<()>> Batches<'_, T, F> {
    /// One picture, or why there is none, which is handed on in its turn. Errors: a crop of another size; the device's, after
    /// which nothing can be scored; those of `each`. A map that is not finite is the picture's own error.
    pub fn push(&mut self, picture: Loaded<T>) -> Result<()> {
        let x = self.scorer.config().crop;
        if let Ok((_, crop)) = &picture
            && crop.len() != 3 * x * x
        {
            return Err(Error::usage(format!("{} bytes are not a crop ({x}, {x}, 3)", crop.len())));
        }
        self.next.push(picture);
        match self.next.iter().flatten().count() == self.size {
            true => self.send(),
            false => Ok(()),
        }
    }
    /// Scores what is left. Errors: as [`Batches::push`].
    pub fn finish(mut self) -> Result<()> {
        self.send()?;
        while !self.under_way.is_empty() {
            self.collect()?;
        }
        Ok(())
    }

    /// The next batch: scored at once, or queued on a GPU, where two may be under way.
    fn send(&mut self) -> Result<()> {
        if self.under_way.len() == 2 {
            self.collect()?;
        }
        let batch = std::mem::take(&mut self.next);
        let On::Cuda(on) = &mut self.scorer.on else {
            return batch.into_iter().try_for_each(|picture| {
                let start = Instant::now();
                let scored = picture.and_then(|(with, crop)| {
                    let mut verdict = Verdict::default();
                    self.scorer.score_crops_into(&crop, std::slice::from_mut(&mut verdict))?;
                    Ok(Scored { with, verdict, ms: start.elapsed().as_secs_f64() * 1e3 })
                });
                self.done += 1;
                (self.each)(self.done - 1, scored)
            });
        };
        let crops: Vec<&[u8]> = batch.iter().flatten().map(|(_, crop)| &crop[..]).collect();
        if !crops.is_empty() {
            on.send_crops(&crops)?;
        }
        self.under_way.push_back((batch, Instant::now()));
        Ok(())
    }
    /// Waits for the oldest batch and hands it on.
    fn collect(&mut self) -> Result<()> {
        let Some((batch, start)) = self.under_way.pop_front() else { return Ok(()) };
        let mut verdicts = vec![Verdict::default(); batch.iter().flatten().count()];
        let start = start.max(self.last);
        if let (On::Cuda(on), false) = (&mut self.scorer.on, verdicts.is_empty()) {
            on.collect(&mut verdicts)?;
        }
        self.last = Instant::now();
        let ms = (self.last - start).as_secs_f64() * 1e3 / verdicts.len().max(1) as f64;
        let mut verdicts = verdicts.into_iter();
        for picture in batch {
            let scored = picture.and_then(|(with, _)| {
                let mut verdict = verdicts.next().expect("one for each picture");
                self.scorer.check(&verdict)?;
                self.scorer.judge(&mut verdict);
                Ok(Scored { with, verdict, ms })
            });
            self.done += 1;
            (self.each)(self.done - 1, scored)?;
        }
        Ok(())
    }
}
