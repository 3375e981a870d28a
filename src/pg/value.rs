//! Looking at datums: images, text, equality as stored.

use pgrx::pg_sys;
use pgrx::varlena::{varatt_is_1b_e, varatt_is_4b_c, vardata_any, varsize_any, varsize_any_exhdr};

/// How values of a column are passed and stored.
#[derive(Clone, Copy)]
pub struct Storage {
    pub by_value: bool,
    pub len: i16,
    pub align: usize,
}

/// The text of a `text`/`varchar` datum.
///
/// # Safety
/// `datum` is a non-null varlena that lives at least as long as the result is used.
pub unsafe fn text<'a>(datum: pg_sys::Datum) -> &'a str {
    let mut packed = datum.cast_mut_ptr::<pg_sys::varlena>();
    if varatt_is_1b_e(packed) || varatt_is_4b_c(packed) {
        packed = pg_sys::pg_detoast_datum_packed(packed);
    }
    let bytes = std::slice::from_raw_parts(vardata_any(packed) as *const u8, varsize_any_exhdr(packed));
    std::str::from_utf8(bytes).unwrap_or_else(|_| pgrx::error!("text value is not valid UTF-8"))
}

/// Calls `body` with the bytes of a varlena.
///
/// # Safety
/// `datum` is a non-null varlena.
pub unsafe fn with_bytes<T>(datum: pg_sys::Datum, body: impl FnOnce(&[u8]) -> T) -> T {
    let stored = datum.cast_mut_ptr::<pg_sys::varlena>();
    let packed = match varatt_is_1b_e(stored) || varatt_is_4b_c(stored) {
        true => pg_sys::pg_detoast_datum_packed(stored),
        false => stored,
    };
    let result = body(std::slice::from_raw_parts(vardata_any(packed) as *const u8, varsize_any_exhdr(packed)));
    if packed != stored {
        pg_sys::pfree(packed.cast());
    }
    result
}

/// The bytes of a `bytea` datum.
///
/// # Safety
/// `datum` is a non-null varlena.
pub unsafe fn bytes(datum: pg_sys::Datum) -> Vec<u8> {
    let packed = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
    std::slice::from_raw_parts(vardata_any(packed) as *const u8, varsize_any_exhdr(packed)).to_vec()
}

/// Is the varlena stored out of line?
///
/// # Safety
/// `datum` is a non-null varlena.
pub unsafe fn is_external(datum: pg_sys::Datum) -> bool {
    varatt_is_1b_e(datum.cast_mut_ptr::<pg_sys::varlena>())
}

/// Are two non-null values of one column the same image? Never true for different values; values
/// that are equal only by their type's `=` (1.0 and 1.00) differ.
///
/// # Safety
/// Both datums are non-null values of a column with this storage.
pub unsafe fn same_image(storage: Storage, a: pg_sys::Datum, b: pg_sys::Datum) -> bool {
    if storage.by_value || a == b {
        return a == b;
    }
    match storage.len {
        -2 => {
            std::ffi::CStr::from_ptr(a.cast_mut_ptr::<core::ffi::c_char>())
                == std::ffi::CStr::from_ptr(b.cast_mut_ptr::<core::ffi::c_char>())
        }
        -1 => {
            let (pa, pb) = (a.cast_mut_ptr::<pg_sys::varlena>(), b.cast_mut_ptr::<pg_sys::varlena>());
            let bytes = |p: *mut pg_sys::varlena| std::slice::from_raw_parts(p as *const u8, varsize_any(p));
            if bytes(pa) == bytes(pb) {
                return true;
            }
            let plain = |p| !varatt_is_1b_e(p) && !varatt_is_4b_c(p);
            if !(plain(pa) && plain(pb)) && pg_sys::toast_raw_datum_size(a) != pg_sys::toast_raw_datum_size(b) {
                return false;
            }
            let (da, db) = (pg_sys::pg_detoast_datum_packed(pa), pg_sys::pg_detoast_datum_packed(pb));
            let data =
                |p: *mut pg_sys::varlena| std::slice::from_raw_parts(vardata_any(p) as *const u8, varsize_any_exhdr(p));
            let same = data(da) == data(db);
            if da != pa {
                pg_sys::pfree(da.cast());
            }
            if db != pb {
                pg_sys::pfree(db.cast());
            }
            same
        }
        len => {
            let bytes =
                |d: pg_sys::Datum| std::slice::from_raw_parts(d.cast_mut_ptr::<u8>() as *const u8, len as usize);
            bytes(a) == bytes(b)
        }
    }
}

/// A text datum in the current memory context.
pub fn text_datum(text: &str) -> pg_sys::Datum {
    // SAFETY: copies `len` bytes.
    unsafe { pg_sys::Datum::from(pg_sys::cstring_to_text_with_len(text.as_ptr().cast(), text.len() as i32) as usize) }
}

/// A bytea datum in the current memory context.
pub fn bytes_datum(bytes: &[u8]) -> pg_sys::Datum {
    // SAFETY: copies `len` bytes; text and bytea have one form.
    unsafe { pg_sys::Datum::from(pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), bytes.len() as i32) as usize) }
}
