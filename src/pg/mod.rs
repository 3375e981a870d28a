//! The only place for raw PostgreSQL pointers: each file wraps one server facility.

pub mod call;
pub mod ffi;
pub mod fixed;
pub mod lock;
pub mod memory;
pub mod owner;
pub mod row;
pub mod spi;
pub mod spool;
pub mod store;
pub mod trigger;
pub mod value;
pub mod xact;
