//! Vectors that begin at a cache line: a vector load that straddles two lines costs twice.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line, and of the widest vector.
pub const LINE: usize = 64;

/// Elements of which the first lies at the beginning of a cache line; otherwise a slice.
#[derive(Debug)]
pub struct Aligned<E> {
    /// Longer by a line, of which as much as need be lies in front.
    data: Vec<E>,
    first: usize,
    len: usize,
}

impl<E: Copy + Default> Aligned<E> {
    /// `len` zeros; their pages are only touched when used.
    pub fn zeros(len: usize) -> Self {
        let data = vec![E::default(); len + LINE / size_of::<E>()];
        Self { first: data.as_ptr().align_offset(LINE), data, len }
    }
}

/// Uninitialised memory for elements, the first at the beginning of a cache line.
pub struct Room<E> {
    data: Vec<E>,
    first: usize,
}

impl<E> Room<E> {
    /// For `len` elements.
    pub fn new(len: usize) -> Self {
        let data: Vec<E> = Vec::with_capacity(len + LINE / size_of::<E>());
        Self { first: data.as_ptr().align_offset(LINE), data }
    }
    /// Where the first one goes.
    pub fn out(&mut self) -> *mut E {
        self.data.as_mut_ptr().wrapping_add(self.first)
    }
}

impl<E: Copy + Default> Clone for Aligned<E> {
    fn clone(&self) -> Self {
        let mut new = Self::zeros(self.len);
        new.copy_from_slice(self);
        new
    }
}

impl<E> Deref for Aligned<E> {
    type Target = [E];
    fn deref(&self) -> &[E] {
        &self.data[self.first..self.first + self.len]
    }
}

impl<E> DerefMut for Aligned<E> {
    fn deref_mut(&mut self) -> &mut [E] {
        &mut self.data[self.first..self.first + self.len]
    }
}
