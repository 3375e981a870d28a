//! The only place for raw PostgreSQL pointers: each file wraps one server facility.

pub mod announcer;
pub mod call;
pub mod context;
pub mod ddl;
pub mod executor;
pub mod ffi;
pub mod fixed;
pub mod invalidation;
pub mod layout;
pub mod leaf;
pub mod lock;
pub mod memory;
pub mod owner;
pub mod route;
pub mod row;
pub mod scan;
pub mod shape;
pub mod spi;
pub mod spool;
pub mod store;
pub mod target;
pub mod trigger;
pub mod value;
pub mod worker;
pub mod xact;
