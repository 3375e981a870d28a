//! The allocator of everything that Rust allocates here: the C library's, with a reserve for the moment it fails.
//!
//! An allocation of Rust's cannot fail: it has to succeed or the process ends, and the server with all its sessions
//! would restart. So where `malloc` has nothing left, small pieces come from a reserve, and it is noted that memory is
//! short. [`super::memory::check`], which every call and every loop passes, then raises the error. What is large asks
//! first ([`super::memory::ensure`]). Only where the reserve is exhausted before that does the process end.
//!
//! The reserve is part of the library's zeroed data: a process is charged for it when it loads the library, with address
//! space, and uses memory only for what it once had to take from it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

/// Pieces are a whole number of blocks.
const BLOCK: usize = 64;
const BLOCKS: usize = 16 << 10;
/// The largest piece.
pub const PIECE: usize = 256 << 10;

#[global_allocator]
static ALLOCATOR: Reserve = Reserve::new();

#[repr(C, align(4096))]
struct Reserve {
    bytes: UnsafeCell<[u8; BLOCK * BLOCKS]>,
    /// Of each block: is it in use?
    used: UnsafeCell<[bool; BLOCKS]>,
    /// Whoever has this may look at `used`.
    locked: AtomicBool,
    short: AtomicBool,
}

// SAFETY: `used` is accessed under the lock, `bytes` only by whom they were given to.
unsafe impl Sync for Reserve {}

/// Has memory been short since this was asked last?
#[inline]
pub fn was_short() -> bool {
    ALLOCATOR.short.load(Ordering::Relaxed) && ALLOCATOR.short.swap(false, Ordering::Relaxed)
}

/// Is more than half of the reserve there, and memory besides?
#[cold]
pub fn is_over() -> bool {
    let Ok(layout) = Layout::from_size_align(BLOCK * BLOCKS, BLOCK) else { return false };
    // SAFETY: the layout is not empty; what was allocated is freed. The compiler might leave both out.
    let more = unsafe {
        let piece = std::hint::black_box(System.alloc(layout));
        if !piece.is_null() {
            System.dealloc(piece, layout);
        }
        !piece.is_null()
    };
    more && ALLOCATOR.with_used(|used| used.iter().filter(|used| **used).count()) < BLOCKS / 2
}

impl Reserve {
    const fn new() -> Reserve {
        Reserve {
            bytes: UnsafeCell::new([0; BLOCK * BLOCKS]),
            used: UnsafeCell::new([false; BLOCKS]),
            locked: AtomicBool::new(false),
            short: AtomicBool::new(false),
        }
    }

    fn with_used<T>(&self, body: impl FnOnce(&mut [bool; BLOCKS]) -> T) -> T {
        while self.locked.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        // SAFETY: this thread has the lock.
        let result = body(unsafe { &mut *self.used.get() });
        self.locked.store(false, Ordering::Release);
        result
    }

    /// Is this a piece of the reserve?
    #[inline]
    fn has(&self, piece: *mut u8) -> bool {
        (piece as usize).wrapping_sub(self.bytes.get() as usize) < BLOCK * BLOCKS
    }

    /// The first room that is large enough; null if there is none.
    #[cold]
    fn take(&self, layout: Layout) -> *mut u8 {
        self.short.store(true, Ordering::Relaxed);
        if layout.size() > PIECE || layout.align() > BLOCK {
            return null_mut();
        }
        let wanted = layout.size().div_ceil(BLOCK);
        let place = self.with_used(|used| {
            let mut free = 0;
            let end = used.iter().position(|used| {
                free = if *used { 0 } else { free + 1 };
                free == wanted
            })?;
            let start = end + 1 - wanted;
            used[start..=end].fill(true);
            Some(start)
        });
        match place {
            // SAFETY: the block is within the reserve.
            Some(start) => unsafe { self.bytes.get().cast::<u8>().add(start * BLOCK) },
            None => null_mut(),
        }
    }

    #[cold]
    fn give_back(&self, piece: *mut u8, layout: Layout) {
        let start = (piece as usize - self.bytes.get() as usize) / BLOCK;
        self.with_used(|used| used[start..start + layout.size().div_ceil(BLOCK)].fill(false));
    }
}

// SAFETY: pieces of the reserve do not overlap while they are in use, and are aligned to a block; everything else is the
// C library's. Nothing in here unwinds: places are computed from pieces that were given.
unsafe impl GlobalAlloc for Reserve {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let piece = System.alloc(layout);
        if piece.is_null() {
            return self.take(layout);
        }
        piece
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let mut piece = System.alloc_zeroed(layout);
        if piece.is_null() {
            piece = self.take(layout);
            if !piece.is_null() {
                piece.write_bytes(0, layout.size());
            }
        }
        piece
    }

    #[inline]
    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        match self.has(piece) {
            true => self.give_back(piece, layout),
            false => System.dealloc(piece, layout),
        }
    }

    #[inline]
    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.has(piece) {
            let moved = System.realloc(piece, layout, size);
            if !moved.is_null() {
                return moved;
            }
        }
        let wanted = Layout::from_size_align_unchecked(size, layout.align());
        let moved = self.alloc(wanted);
        if !moved.is_null() {
            moved.copy_from_nonoverlapping(piece, layout.size().min(size));
            self.dealloc(piece, layout);
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).expect("a valid layout")
    }

    fn in_use(reserve: &Reserve) -> usize {
        reserve.with_used(|used| used.iter().filter(|used| **used).count())
    }

    #[test]
    fn pieces_do_not_overlap_and_come_back() {
        static RESERVE: Reserve = Reserve::new();
        let reserve = &RESERVE;
        let sizes = [1, 64, 65, 1000, 17, PIECE];
        let mut pieces: Vec<_> = sizes.map(|size| (reserve.take(layout(size, 16)), size)).to_vec();
        pieces.sort();
        assert!(pieces.iter().all(|(piece, _)| reserve.has(*piece) && (*piece as usize).is_multiple_of(16)));
        assert!(pieces.windows(2).all(|pair| pair[0].0 as usize + pair[0].1 <= pair[1].0 as usize));
        assert_eq!(in_use(reserve), 1 + 1 + 2 + 16 + 1 + PIECE / BLOCK);
        let (second, size) = pieces[1];
        reserve.give_back(second, layout(size, 16));
        assert_eq!(reserve.take(layout(size, 16)), second, "what comes back is given again");
        pieces.iter().for_each(|(piece, size)| reserve.give_back(*piece, layout(*size, 16)));
        assert_eq!(in_use(reserve), 0);
    }

    #[test]
    fn it_ends() {
        static RESERVE: Reserve = Reserve::new();
        let reserve = &RESERVE;
        assert!(!reserve.short.load(Ordering::Relaxed));
        assert!(reserve.take(layout(PIECE + 1, 1)).is_null(), "too large");
        assert!(reserve.short.load(Ordering::Relaxed));
        assert!(reserve.take(layout(1, 2 * BLOCK)).is_null(), "aligned too far");
        let pieces: Vec<_> = (0..BLOCK * BLOCKS / PIECE).map(|_| reserve.take(layout(PIECE, 8))).collect();
        assert!(pieces.iter().all(|piece| !piece.is_null()));
        assert!(reserve.take(layout(1, 1)).is_null(), "exhausted");
        reserve.give_back(pieces[3], layout(PIECE, 8));
        assert_eq!(reserve.take(layout(1, 1)), pieces[3]);
    }

    #[test]
    fn a_piece_grows_and_moves_out() {
        static RESERVE: Reserve = Reserve::new();
        let reserve = &RESERVE;
        let piece = reserve.take(layout(100, 8));
        // SAFETY: the pieces are large enough for what is written and read.
        unsafe {
            piece.write_bytes(7, 100);
            let grown = reserve.realloc(piece, layout(100, 8), 1000);
            assert!(!reserve.has(grown), "where there is memory, it is used");
            assert!((0..100).all(|i| *grown.add(i) == 7));
            assert_eq!(in_use(reserve), 0);
            reserve.dealloc(grown, layout(1000, 8));
        }
    }
}
